"""Pictures of what is no digit: letters, scribbles, shapes, dashes and dots, two digits at once, halves of digits.

All pictures are generated: letters from the fonts that come with matplotlib, digits from MNIST. Shapes that people read
as a digit are left out, because they would teach the network to refuse digits: O (0), l, brackets and upright dashes
(1), S and $ (5), the right half of an 8 (3), a 0 above a 0 (8).
"""

import math
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnist_runtime.digits import PIXELS, WIDTH, Intensities
from mnist_train.augment import box
from mnist_train.data.batches import Alteration, Data
from mnist_train.data.bundled import Split, scaled
from mnist_train.errors import MissingExtraError

try:
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise MissingExtraError("matplotlib", "training on what is no digit") from error

SHARE = 1 / 10
"""Probability with which `mixed_with` replaces a digit."""
NO_DIGIT = 10
"""Label of what is no digit, after the ten digits."""

LETTERS = "".join(sorted(set(string.ascii_letters) - set("BIOSZbgloqsz")))
"""Latin letters without those that look like a digit."""
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
"""Fonts whose letters are drawn; matplotlib's Computer Modern (cm*) is left out, so that a measurement can use it."""

_GREEK = "ΓΔΛΞΠΣΦΨΩγεηκλμνπρτφχψω"
_CYRILLIC = "ДЖИЙКЛМНПФЦШЩЫЮЯджклмнптфцшщыюя"
_CHARACTERS = 3 * LETTERS + "?&@#%*+=<>~^€" + _GREEK + _CYRILLIC
_SIDE = 4 * WIDTH  # pixels of a drawing's side; it is reduced to a quarter
_MIDDLE = _SIDE / 2

Rng = np.random.Generator
Drawing = NDArray[np.uint8]
"""uint8 `[112, 112]`, white on black."""


def no_digits(count: int, digits: Split, seed: int) -> Tensor:
    """Draw `count` pictures of what is no digit, as pixels float32 `[count, 784]`; seed and digits determine them."""
    rng = np.random.default_rng(seed)
    kinds: dict[Callable[[Rng], Drawing], float] = {
        letter: 0.45,
        scribble: 0.13,
        polygon: 0.12,
        symbol: 0.06,
        dashes: 0.05,
        dots: 0.03,
        lambda rng: two_digits(digits, rng): 0.1,
        lambda rng: half_digit(digits, rng): 0.06,
    }
    chosen = rng.choice(len(kinds), size=count, p=list(kinds.values()))
    functions = list(kinds)
    pictures = np.stack([_reduced(functions[kind](rng)) for kind in chosen])
    return box(scaled(torch.from_numpy(pictures)).unsqueeze(1)).reshape(-1, PIXELS)


def mixed_with(pictures: Tensor) -> Alteration:
    """Return the alteration of batches that replaces one digit of ten, at random, by a picture of what is no digit.

    Args:
        pictures: Pixels float32 `[M, 784]`, on the model's device.
    """

    def alter(pixels: Tensor, labels: Tensor, seed: np.random.SeedSequence) -> Data:
        rng = np.random.default_rng(seed)
        places = torch.from_numpy(np.flatnonzero(rng.random(len(labels)) < SHARE)).to(labels.device)
        chosen = torch.from_numpy(rng.integers(len(pictures), size=len(places))).to(labels.device)
        return pixels.index_copy(0, places, pictures[chosen]), labels.index_fill(0, places, NO_DIGIT)

    return alter


def letter(rng: Rng) -> Drawing:
    """Draw a letter or sign of a font, or, in one of ten drawings, two of them."""
    text = "".join(rng.choice(list(_CHARACTERS), size=1 + (rng.random() < 0.1)))
    image, draw = _blank()
    draw.text((_MIDDLE, _MIDDLE), text, fill=255, font=font(str(rng.choice(FONTS)), 90 // len(text)), anchor="mm")
    return np.asarray(image)


def scribble(rng: Rng) -> Drawing:
    """Draw a smooth line with many turns."""
    count = int(rng.integers(9, 22))
    turns = rng.uniform(10, _SIDE - 10, (count, 2))
    times = np.linspace(0, count - 1, 12 * count)
    smooth = np.stack([_smooth(np.interp(times, np.arange(count), axis)) for axis in turns.T], axis=1)
    image, draw = _blank()
    draw.line([tuple(point) for point in smooth.tolist()], fill=255, width=_pen(rng), joint="curve")
    return np.asarray(image)


def polygon(rng: Rng) -> Drawing:
    """Draw a polygon of three to five corners or a star of five to seven points, as a line or filled."""
    is_star = rng.random() < 0.4
    points = int(rng.integers(5, 8) if is_star else rng.integers(3, 6))
    angles = rng.uniform(0, 2 * math.pi) + np.arange(points) * 2 * math.pi / points + rng.normal(0, 0.15, points)
    radii = rng.uniform(30, 50) * rng.uniform(0.8, 1.2, points)
    if is_star:
        order = np.arange(points) * 2 % points  # every second point, as drawn without lifting the pen
        angles, radii = angles[order], radii[order]
    corners = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1) + _MIDDLE
    line = [tuple(corner) for corner in corners.tolist()]
    image, draw = _blank()
    if rng.random() < 0.25:
        draw.polygon(line, fill=255)
    else:
        draw.line([*line, line[0], line[1]], fill=255, width=_pen(rng), joint="curve")
    return np.asarray(image)


def symbol(rng: Rng) -> Drawing:
    """Draw a cross, an arrow, a tick, a grid or a zigzag."""
    lines = _SYMBOLS[rng.integers(len(_SYMBOLS))]
    angle = rng.uniform(-0.3, 0.3) + rng.integers(4) * math.pi / 2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * rng.uniform(30, 45)
    image, draw = _blank()
    width = _pen(rng)
    for line in lines:
        corners = (np.array(line) + rng.normal(0, 0.06, (len(line), 2))) @ turn.T + _MIDDLE
        draw.line([tuple(corner) for corner in corners.tolist()], fill=255, width=width, joint="curve")
    return np.asarray(image)


def dashes(rng: Rng) -> Drawing:
    """Draw one to three dashes, nearly level because an upright one is a 1."""
    image, draw = _blank()
    width, slope, length = _pen(rng), rng.uniform(-0.35, 0.35), rng.uniform(15, 48)
    for y in _MIDDLE + 22 * (np.arange(count := int(rng.integers(1, 4))) - (count - 1) / 2):
        draw.line((_MIDDLE - length, y - slope * length, _MIDDLE + length, y + slope * length), fill=255, width=width)
    return np.asarray(image)


def dots(rng: Rng) -> Drawing:
    """Draw one to five filled dots."""
    image, draw = _blank()
    for x, y in rng.uniform(25, _SIDE - 25, (int(rng.integers(1, 6)), 2)):
        draw.circle((x, y), rng.uniform(4, 14), fill=255)
    return np.asarray(image)


def two_digits(digits: Split, rng: Rng) -> Drawing:
    """Put two digits side by side."""
    first, second = (_trimmed(digits.images[i]) for i in rng.integers(len(digits), size=2))
    width = first.shape[1] + int(rng.integers(0, 4)) + second.shape[1]
    pair = np.zeros((max(len(first), len(second)), width), np.uint8)
    pair[: first.shape[0], : first.shape[1]] = first
    pair[-second.shape[0] :, -second.shape[1] :] = second
    return _fitted(pair)


def half_digit(digits: Split, rng: Rng) -> Drawing:
    """Keep half of a digit, if that half does not look like a digit itself."""
    label = rng.choice(list(HALVES))
    ink = _trimmed(digits.images[rng.choice(np.flatnonzero(digits.labels == label))])
    upper, lower = np.split(ink, [ink.shape[0] // 2], axis=0)
    left, right = np.split(ink, [ink.shape[1] // 2], axis=1)
    halves = {"upper": upper, "lower": lower, "left": left, "right": right}
    return _fitted(halves[rng.choice(HALVES[label])])


HALVES = {2: ("lower",), 3: ("left",), 4: ("upper",), 8: ("left",)}
"""Halves of digits that are no digit."""

_SYMBOLS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((-1, 0), (1, 0)), ((0, -1), (0, 1))),  # cross
    (((-1, 0), (1, 0)), ((0.4, -0.5), (1, 0), (0.4, 0.5))),  # arrow
    (((-0.8, 0), (-0.2, 0.7), (0.9, -0.8)),),  # tick
    (((-0.4, -1), (-0.4, 1)), ((0.4, -1), (0.4, 1)), ((-1, -0.4), (1, -0.4)), ((-1, 0.4), (1, 0.4))),  # grid
    (((-1, 0.5), (-0.6, -0.5), (-0.2, 0.5), (0.2, -0.5), (0.6, 0.5), (1, -0.5)),),  # zigzag
    (((-0.5, -1), (-0.5, 1)), ((0.5, -1), (0.5, 1)), ((-0.5, 0), (0.5, 0))),  # H
    (((0, -1), (0, 1)), ((-0.9, -0.5), (0.9, 0.5)), ((-0.9, 0.5), (0.9, -0.5))),  # asterisk
)
"""Symbols as strokes of points (x, y) within [-1, 1]."""


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font that comes with matplotlib, `size` pixels high."""
    path = Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    return ImageFont.truetype(path, size)


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (_SIDE, _SIDE))
    return image, ImageDraw.Draw(image)


def _pen(rng: Rng) -> int:
    """Draw the width of a pen, in pixels of a drawing; MNIST's is about 10."""
    return int(rng.integers(6, 15))


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    window = np.hanning(25)
    return np.convolve(values, window / window.sum(), mode="valid")


def _trimmed(ink: Drawing) -> Drawing:
    """Cut off the empty rows and columns around the ink."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fitted(ink: Drawing) -> Drawing:
    """Scale the longest side of ink to that of a digit, and place it in the middle of a drawing."""
    scale = 80 / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    drawing = Image.new("L", (_SIDE, _SIDE))
    drawing.paste(Image.fromarray(ink).resize((width, height)), ((_SIDE - width) // 2, (_SIDE - height) // 2))
    return np.asarray(drawing)


def _reduced(drawing: Drawing) -> Intensities:
    return np.asarray(Image.fromarray(drawing).reduce(_SIDE // WIDTH))
