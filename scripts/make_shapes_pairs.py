"""Write the shipped pairs about pictures or clips: `make_shapes_pairs.py {vlm,video}`.

The pairs are drawn from what the model says at temperature 1; the same model gives the same file.
"""

import argparse
from collections import Counter
from pathlib import Path

from mmalign.shapes.sight_pairs import CAPTION_PAIRS_FILE, CLIP_PAIRS_FILE, write_pairs
from mmalign.shapes.tiny_qwen_vl import VIDEO_FOLDER, VLM_FOLDER, load_vlm
from mmalign.shapes.vlm_pairs import caption_pairs, clip_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modality", choices=("vlm", "video"))
    parser.add_argument("--model", type=Path, help="folder of the model; default: the shipped one")
    parser.add_argument("--out", type=Path, help="default: into the package")
    options = parser.parse_args()
    pictures = options.modality == "vlm"
    folder = options.model or (VLM_FOLDER if pictures else VIDEO_FOLDER)
    if not (folder / "config.json").is_file():
        parser.error(f"{folder} holds no model; name one with --model")
    model, processor = load_vlm(folder)
    pairs = (caption_pairs if pictures else clip_pairs)(model, processor)
    out = options.out or (CAPTION_PAIRS_FILE if pictures else CLIP_PAIRS_FILE)
    write_pairs(out, pairs)
    kinds = Counter((p.id.rpartition("-")[0], p.chosen_from, p.rejected_from) for p in pairs)
    for (name, chosen, rejected), count in sorted(kinds.items()):
        print(f"{name:28} {count:5d} pairs, chosen from {chosen}, rejected from {rejected}")
    print(out)


if __name__ == "__main__":
    main()
