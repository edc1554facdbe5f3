"""Pictures that a report shows to a model: what is no digit, and digits by other writers than MNIST's.

All are generated, or come with a package, and are read as photographs are.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from mnist_runtime.digits import Intensities
from mnist_runtime.errors import DigitError
from mnist_runtime.io.images import read_image
from mnist_train import no_digit
from mnist_train.data.bundled import Split

COUNT = 100
"""Pictures of each kind."""
FONTS = ("cmr10", "cmss10", "cmtt10", "cmmi10", "cmb10")
"""Computer Modern, which comes with matplotlib; `mnist_train.no_digit` draws other fonts."""

_SIDE, _MARGIN = 240, 40  # pixels of a picture, and of the paper around a foreign digit

Pictures = Iterator[Image.Image]
Draw = Callable[[np.random.Generator], no_digit.Drawing]


def strangers(validation: Split, seed: int = 0) -> dict[str, Intensities]:
    """Return pictures as the image recipe reads them, uint8 `[N, 784]`, by kind, without those that it refuses.

    Args:
        validation: Digits for the pictures of two digits and of halves.
        seed: Seed of the pictures.
    """
    drawings: dict[str, Draw] = {
        "scribbles": no_digit.scribble,
        "polygons and stars": no_digit.polygon,
        "symbols": no_digit.symbol,
        "dashes": no_digit.dashes,
        "dots": no_digit.dots,
        "two digits at once": partial(no_digit.two_digits, validation),
        "halves of digits": partial(no_digit.half_digit, validation),
    }
    rng = np.random.default_rng(seed)
    kinds = {"letters of unseen fonts": _read(_letters(rng))}
    kinds |= {kind: _read(_drawn(draw, rng)) for kind, draw in drawings.items()}
    try:
        from sklearn.datasets import load_digits
    except ImportError:  # they come with scikit-learn, which a report does not need
        return kinds
    return {**kinds, "digits of other people (UCI)": _read(map(foreign_digit, load_digits().images[:COUNT]))}


def _drawn(draw: Draw, rng: np.random.Generator) -> Pictures:
    return (Image.fromarray(np.pad(255 - draw(rng), _MARGIN, constant_values=255)) for _ in range(COUNT))


def letter(character: str, font: str) -> Image.Image:
    """Draw a character of one of `FONTS`, dark on light."""
    picture = Image.new("L", (_SIDE, _SIDE), 255)
    middle = (_SIDE // 2, _SIDE // 2)
    ImageDraw.Draw(picture).text(middle, character, 0, no_digit.font(font, 140), anchor="mm")
    return picture


def foreign_digit(digit: np.ndarray) -> Image.Image:
    """Draw a digit of `sklearn.datasets.load_digits`, 8x8 pixels of 17 greys, dark on light with a margin."""
    ink = Image.fromarray(np.rint(255 - digit * (255 / 16)).astype(np.uint8))
    picture = Image.new("L", (_SIDE, _SIDE), 255)
    picture.paste(ink.resize((_SIDE - 2 * _MARGIN,) * 2, Image.Resampling.BICUBIC), (_MARGIN, _MARGIN))
    return picture


def _letters(rng: np.random.Generator) -> Pictures:
    for _ in range(COUNT):
        font = str(rng.choice(FONTS))
        yield ImageOps.expand(letter(str(rng.choice(list(no_digit.LETTERS))), font), _MARGIN, 255)


def _read(pictures: Pictures) -> Intensities:
    digits = []
    for picture in pictures:
        try:
            digits.append(read_image(picture, "the picture"))
        except DigitError:
            continue
    return np.array(digits, np.uint8).reshape(-1, 784)
