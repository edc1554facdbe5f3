"""Make the pictures of this folder from MNIST's test digits: python examples/make_pictures.py [FOLDER].

They look like what people have: a photograph of pen on paper, a drawing of an app, a print, and ruled paper. The noise
is seeded, so that the same versions of NumPy and Pillow make the same bytes.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mnist_train.data.bundled import load_split

SIDE = 320
"""Pixels of a picture's side."""

Floats = NDArray[np.float64]
"""Share of ink or of light, 0 to 1, `[SIDE, SIDE]`."""


def ink(digit: NDArray[np.uint8], size: int, left: int, top: int, turn: float) -> Floats:
    """Return the digit `size` pixels large at a place of the sheet, turned by some degrees."""
    sheet = Image.new("L", (SIDE, SIDE))
    sheet.paste(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC), (left, top))
    return np.asarray(sheet.rotate(turn, Image.Resampling.BICUBIC), dtype=np.float64) / 255


def photograph(reflected: Floats, rng: np.random.Generator) -> Image.Image:
    """Return a photograph of paper that reflects this share of the light: a lamp at one side, grain, noise, blur."""
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    light = 200 + 30 * across - 20 * down - 15 * (across**2 + down**2)
    tint = np.array([1.0, 0.98, 0.92])
    levels = (light * reflected)[..., None] * tint + rng.normal(0, 3, (SIDE, SIDE, 1))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def drawing(drawn: Floats) -> Image.Image:
    """Return blue strokes on a transparent ground."""
    levels = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    levels[..., :3] = 30, 60, 200
    levels[..., 3] = np.rint(255 * drawn)
    return Image.fromarray(levels)


def ruled(spacing: int) -> Floats:
    """Return paper with a thin line at every `spacing` pixels."""
    paper = np.ones((SIDE, SIDE))
    paper[spacing // 2 :: spacing] = paper[spacing // 2 + 1 :: spacing] = 0.6
    return paper


def main(folder: Path) -> None:
    """Write the pictures, and the first digit as an array."""
    rng = np.random.default_rng(0)
    digits = load_split("test").images
    photograph(1 - 0.8 * ink(digits[0], 200, 60, 50, turn=4), rng).save(folder / "seven.jpg", quality=85)
    drawing(ink(digits[1], 240, 40, 40, turn=0)).save(folder / "drawn.png")
    Image.fromarray(ink(digits[3], 180, 70, 70, turn=0) < 0.5).save(folder / "printed.png")
    photograph(ruled(54) * (1 - 0.8 * ink(digits[4], 190, 70, 60, turn=-3)), rng).save(folder / "ruled.jpg", quality=85)
    np.save(folder / "digit.npy", digits[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
