"""Photographs, scans and drawings of one digit, read as MNIST's digits are: Pillow, extra [image]."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from mnist_runtime import ink as mnist
from mnist_runtime.digits import Intensities
from mnist_runtime.errors import DigitError
from mnist_runtime.io.images.decode import FILE_LIMIT, PIXEL_LIMIT, SMALLEST_SIDE, Grey, decode, shrunk
from mnist_runtime.io.images.lines import RIM, connected, without_lines
from mnist_runtime.io.images.paper import ink_on_paper

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FILE_LIMIT", "PIXEL_LIMIT", "normalise", "read_image"]

_PHOTOGRAPH = 256 * 256  # pixels that are enough to find the ink of a photograph
_SOLID = 102  # of 255: what a stroke reaches somewhere, and specks of paper and noise do not
_FULLEST = 0.6  # of the image: a digit leaves more than the rest of it empty


def read_image(source: bytes | Image.Image, name: str) -> Intensities:
    """Read an image of one digit, in any size, colours and format that Pillow reads, as uint8 `[784]`.

    Args:
        source: The bytes of an image file, or an image that Pillow has opened or made.
        name: Name of the image in errors.

    Raises:
        DigitError: `source` is no such image, is too large, or does not show exactly one digit.
    """
    return normalise(decode(source, name), name)


def normalise(grey: Grey, name: str) -> Intensities:
    """Find the ink in a grey image, darker or lighter than its ground, and give it MNIST's form.

    Raises:
        DigitError: nothing stands out, or too much, or several digits do.
    """
    ink = mnist.drawn(grey)
    if ink is None:
        ink = ink_on_paper(shrunk(grey, _PHOTOGRAPH))
    fullest = 0 if ink is None else _FULLEST * ink.size
    if ink is not None:
        ink = without_lines(_without_margins(ink), min(ink.shape))
        ink = np.where(connected(ink > 0, ink > _SOLID), ink, 0)
    if ink is None or not ink.any():
        raise DigitError(
            f"{name} shows no digit: nothing stands out from its background; write bolder, light it evenly, or leave "
            "some background around it"
        )
    if np.count_nonzero(ink) > fullest:
        raise DigitError(
            f"{name} shows no digit: more than {_FULLEST:.0%} of it is ink; leave some background around it"
        )
    box = mnist.Box.of(ink[None])
    longest = int(max(box.height[0], box.width[0]))
    if longest < SMALLEST_SIDE:
        raise DigitError(f"{name} shows no digit: its ink spans {longest} pixels; give a larger picture of it")
    if _stand_side_by_side(ink):
        raise DigitError(f"{name} shows several digits side by side; crop it to one of them")
    return cast("Intensities", mnist.normalise(ink[None])[0])


def _without_margins(ink: Grey) -> Grey:
    """Cut off blank margins, except for the few pixels that show that the ink does not reach the rim."""
    box = mnist.Box.of(ink[None])
    top, left = max(0, int(box.top[0]) - RIM - 1), max(0, int(box.left[0]) - RIM - 1)
    return ink[top : int(box.top[0] + box.height[0]) + RIM + 1, left : int(box.left[0] + box.width[0]) + RIM + 1]


def _stand_side_by_side(ink: Grey) -> bool:
    """Return True if empty columns separate two pieces, each with half of the ink's height and 1/8 of its mass."""
    columns = np.flatnonzero(ink.any(axis=0))
    height = np.ptp(np.flatnonzero(ink.any(axis=1))) + 1
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > max(1, height // 20)) + 1)
    parts = [ink[:, group] for group in groups]
    tall = [part for part in parts if 2 * np.count_nonzero(part.any(axis=1)) > height]
    return sum(8 * int(part.sum(dtype=np.int64)) > int(ink.sum(dtype=np.int64)) for part in tall) > 1
