"""Reduces the pictures of a folder of results to 16 colours for committing: a third of the size, hardly visible.

python benchmarks/studies/pictures/shrink_pictures.py scoresde-runs/1a2b3c4d
"""

import argparse
from pathlib import Path

from PIL import Image

COLOURS = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of results")
    pictures = sorted((parser.parse_args().folder / "pictures").glob("*.png"))
    before = sum(path.stat().st_size for path in pictures)
    for path in pictures:
        with Image.open(path) as picture:
            reduced = picture.convert("RGBA").quantize(COLOURS, Image.Quantize.FASTOCTREE)
        reduced.save(path, format="PNG", optimize=True)
    after = sum(path.stat().st_size for path in pictures)
    print(f"{len(pictures)} pictures: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after")


if __name__ == "__main__":
    main()
