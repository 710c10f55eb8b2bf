"""Draw base pictures above tuned ones from an evaluated run: before_after.py RUN OUT.png [--columns 8]"""

import argparse
from pathlib import Path

from PIL import Image

from mmalign.evaluation.comparison import read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--scale", type=int, default=3)
    options = parser.parse_args()
    comparison = read(options.run)
    if comparison is None:
        raise SystemExit(f"{options.run}: evaluate it first")
    rows = comparison.rows[: options.columns]  # the first ones, not picked
    side = rows[0].base.data.width * options.scale
    sheet = Image.new("RGB", (len(rows) * (side + 4) - 4, 2 * side + 4), (160, 160, 160))
    for column, row in enumerate(rows):
        for line, part in enumerate((row.base, row.tuned)):
            tile = part.data.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * (side + 4), line * (side + 4)))
    sheet.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
