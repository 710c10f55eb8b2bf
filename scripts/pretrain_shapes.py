"""Pretrain a tiny model of the shapes world: `pretrain_shapes.py image`, `text`, `vlm` or `video`."""

import sys

USAGE = "usage: pretrain_shapes.py {image,text,vlm,video} [options]; --help after the name lists its options"


def main(argv: list[str]) -> int:
    """Hand the remaining arguments to one of the pretrainings; returns the exit status."""
    if not argv or argv[0] not in ("image", "text", "vlm", "video"):
        print(USAGE, file=sys.stderr)
        return 2
    if argv[0] == "image":
        from mmalign.shapes.pretrain_image import main as run
    elif argv[0] == "text":
        from mmalign.shapes.pretrain_text import main as run
    else:
        from mmalign.shapes.pretrain_vlm import main as run_vlm

        run_vlm(argv)
        return 0
    run(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
