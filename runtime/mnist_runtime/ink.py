"""Ink on bare ground, brought to MNIST's form in integers: a specification that any language reproduces byte for byte.

Ink is uint8 `[N, height, width]`, 0 for bare ground to 255 for a solid stroke, at most `LARGEST` pixels a side. All
quantities are integers below 2^53, `//` rounds down, and no result depends on the order of a sum. The steps:

0. `drawn`: the ink of a drawing on an even ground. Photographs have none; `mnist_runtime.io.images` finds their ink.
1. `Box`: the smallest box around all pixels above 0.
2. `scaled`: the box, brought to `BOX` = 20 pixels on its longest side by a triangle filter.
3. `Strokes`: the width of the strokes, measured on the same box at `FINE` pixels. A width outside of `THINNEST` to
   `THICKEST` is brought there: the strokes are redrawn, and step 2 is repeated on them.
4. `centred`: set in 28x28 with the centre of mass as near to pixel (14, 14) as whole pixels go.

MNIST itself was made so, without step 3 (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/), and its digits
pass steps 1, 2 and 4 unchanged. Its 50,000 training digits have strokes of 2.4 pixels (median).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import HEIGHT, PIXELS, WIDTH, Intensities

BOX = 20
"""Pixels of the ink's longest side."""
CENTRE = 14
"""Row and column of the centre of mass, counted from 0; measured over MNIST's training digits."""
UNIT = 16
"""Stroke widths and distances are counted in sixteenths of a pixel."""
THINNEST, THICKEST = 24, 96
"""Least and largest stroke width kept, in sixteenths of a pixel: 1.5 and 6 pixels; 96 % of MNIST lies between."""
FINE = 3 * BOX
"""Pixels of the ink's longest side where strokes are measured and redrawn."""
LARGEST = 800
"""Largest side in pixels: up to here, the filter's sums of products are exact in float32."""

_FAINTEST = 24  # grey levels between ink and ground
_MARGIN = 8  # pixels around the fine picture; the thinnest stroke is thickened by less

Ink = NDArray[np.uint8]
"""Ink 0-255, `[N, height, width]`."""

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]


def normalise(ink: Ink) -> Intensities:
    """Return ink in MNIST's form, uint8 `[N, 784]`; no ink gives zeros.

    >>> normalise(np.full((1, 300, 100), 255, np.uint8)).reshape(28, 28)[13, 8:20]
    array([  0,   0,   0, 255, 255, 255, 255, 255, 255, 255,   0,   0],
          dtype=uint8)
    """
    ink = _cropped(ink)
    digits = scaled(ink, BOX)
    fine = np.pad(scaled(ink, FINE), ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    strokes = Strokes.of(fine)
    wanted = np.clip(strokes.width, THINNEST, THICKEST)
    (off,) = np.nonzero(strokes.width != wanted)
    if len(off):
        digits[off] = scaled(strokes[off].redrawn(wanted[off]), BOX)
    return centred(digits)


def drawn(grey: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the ink of a drawing, `[height, width]`, or None where the ground is not even or nothing stands out.

    The ground is the level that most pixels have, the lower of two alike; it is even if that is half of all pixels.
    Ink is darker or lighter than the ground, whichever differs by more in total. Solid ink is the lowest depth that
    three quarters of the deep pixels, those at least half as deep as the deepest, do not exceed; ink of a tenth of that
    and less is ground.

    >>> drawn(np.array([[9, 9, 9, 9, 9], [9, 9, 99, 59, 12]], np.uint8))
    array([[  0,   0,   0,   0,   0],
           [  0,   0, 255, 142,   0]], dtype=uint8)
    """
    counts = np.bincount(grey.ravel(), minlength=256)
    ground = int(counts.argmax())
    if 2 * counts[ground] < grey.size:
        return None
    levels = np.arange(256) - ground
    if counts @ np.maximum(levels, 0) < counts @ np.maximum(-levels, 0):
        levels = -levels
    depths = np.zeros(256, dtype=np.int64)
    np.add.at(depths, np.maximum(levels, 0), counts)
    deepest = int(np.flatnonzero(depths)[-1])
    deep = np.where(2 * np.arange(256) >= deepest, depths, 0)
    solid = int(np.argmax(4 * deep.cumsum() >= 3 * deep.sum()))
    if solid < _FAINTEST:
        return None
    shades = np.minimum(255, (510 * levels + solid) // (2 * solid))
    shades[10 * levels <= solid] = 0
    return shades.astype(np.uint8).take(grey)


class Box(NamedTuple):
    """The smallest box around the pixels above 0 of each picture, int64 `[N]` each; heights and widths 0 if none is."""

    top: _Ints
    height: _Ints
    left: _Ints
    width: _Ints

    @classmethod
    def of(cls, ink: Ink) -> "Box":
        """Find the box of each picture."""
        spans = []
        for axis in (2, 1):
            lit: NDArray[np.bool_] = np.any(ink, axis=axis)
            start = lit.argmax(axis=1)
            end = np.where(lit.any(axis=1), lit.shape[1] - lit[:, ::-1].argmax(axis=1), start)
            spans += [start, end - start]
        return cls(*spans)


def _cropped(ink: Ink) -> Ink:
    """Cut off the rows and columns that are 0 in all pictures, which saves the filter work and changes nothing."""
    box = Box.of(ink.max(axis=0, initial=0)[None])
    top, left = int(box.top[0]), int(box.left[0])
    return ink[:, top : top + max(1, int(box.height[0])), left : left + max(1, int(box.width[0]))]


def scaled(ink: Ink, side: int) -> Ink:
    """Bring each picture's box to `side` pixels on its longest side, in the upper left corner of `[N, side, side]`.

    The shorter side keeps the proportion, `max(1, (2 * side * shorter + longest) // (2 * longest))` pixels. Columns are
    filtered first and rounded, then rows.
    """
    box = Box.of(ink)
    longest = np.maximum(np.maximum(box.height, box.width), 1)
    height, width = (np.maximum(1, (2 * side * size + longest) // (2 * longest)) for size in (box.height, box.width))
    down = _Filter.of(box.top, box.height, height, side).apply(ink.astype(np.float32))
    across = _Filter.of(box.left, box.width, width, side).apply(down.swapaxes(1, 2))
    return np.ascontiguousarray(across.swapaxes(1, 2).astype(np.uint8))


class _Filter(NamedTuple):
    """The triangle filter of antialiased resizing: the pixels that count for each row of each result."""

    pixels: _Ints
    """Indices of the pixels, `[N, rows, taps]`; pixels beyond the picture count 0 times."""
    weights: _Floats
    """Number of times that each counts, `[N, rows, taps]`."""

    @classmethod
    def of(cls, start: _Ints, length: _Ints, size: _Ints, rows: int) -> "_Filter":
        """Return the filter that resizes the `length` pixels from `start` on to `size` pixels.

        Pixel `j` of the box counts `max(0, 2 * max(length, size) - |(2i + 1) * length - (2j + 1) * size|)` times for
        pixel `i` of the result, in units of 1 / (2 * size) pixels.
        """
        start, length, size = (each[:, None, None] for each in (start, length, size))
        reach, i = 2 * np.maximum(length, size), np.arange(rows)[:, None]
        first = ((2 * i + 1) * length - reach - size) // (2 * size) + 1
        j = first + np.arange((reach // size).max(initial=0) + 1)
        weights = reach - np.abs((2 * i + 1) * length - (2 * j + 1) * size)
        weights[(weights < 0) | (j < 0) | (j >= length) | (i >= size)] = 0
        return cls(start + np.clip(j, 0, np.maximum(length - 1, 0)), weights.astype(np.float32))

    def apply(self, ink: _Floats) -> _Floats:
        """Return the rounded means `(2 * sum(weights * ink) + total) // (2 * total)`, total at least 1."""
        total = np.maximum(self.weights.sum(axis=2, keepdims=True, dtype=np.float64), 1)
        counted = ink[np.arange(len(ink))[:, None, None], self.pixels]
        # A matrix product is slower, because most counts are 0.
        sums = np.einsum("nrt,nrtw->nrw", self.weights, counted)
        mean: _Floats = np.floor(sums / total + 0.5).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Strokes:
    """Strokes of pictures whose ink is `FINE` pixels on its longest side."""

    lit: NDArray[np.bool_]
    """Pixels of the strokes, `[N, height, width]`."""
    inside: NDArray[np.int32]
    """Distance of each pixel of a stroke to the nearest pixel of the ground, 0 on the ground, `[N, height, width]`."""
    lit_width: _Ints
    """Width of the strokes as `lit` has them, in units of a fine pixel, `[N]`."""
    width: _Ints
    """Width of the strokes as the ink has them, in units of a pixel of the 28x28, `[N]`."""

    @classmethod
    def of(cls, fine: Ink) -> "Strokes":
        """Measure strokes: a pixel is lit from a quarter of the picture's highest ink on.

        Over a stroke of width w, the distance to its edge is w / 4 on average; a pixel's edge is half a pixel nearer
        than the ground's next pixel. Blur and a faint pen move the edge of what is lit, but hardly its length, so the
        ink's own width is that of what is lit, times ink / 255, over the number of lit pixels.
        """
        lit = 4 * fine.astype(np.int16) >= np.maximum(fine.max(axis=(1, 2), keepdims=True), 1)
        inside = _distances(~lit, reach=FINE // 2)
        count = np.maximum(lit.sum(axis=(1, 2)), 1)
        mass = fine.sum(axis=(1, 2), dtype=np.int64)
        lit_width = 4 * (inside.sum(axis=(1, 2), dtype=np.int64) - UNIT // 2 * count) // count
        return cls(lit, inside, lit_width, lit_width * mass * BOX // (255 * FINE * count))

    def __getitem__(self, chosen: _Ints) -> "Strokes":
        return Strokes(self.lit[chosen], self.inside[chosen], self.lit_width[chosen], self.width[chosen])

    def redrawn(self, width: _Ints) -> Ink:
        """Redraw strokes such that they have this width, in units, once they are scaled to `BOX` pixels.

        All edges move outwards by `step`, inwards where it is negative, and the box by as much, which the scaling then
        undoes: (lit_width + 2 step) / (FINE + 2 step) = width / BOX. The middle of the widest stroke always stays.
        """
        step = UNIT // 2 * (width * FINE - BOX * self.lit_width) // (UNIT * BOX - width)
        step = np.maximum(step, UNIT - self.inside.max(axis=(1, 2)))[:, None, None]
        outside = _distances(self.lit, reach=_MARGIN)
        depth = np.where(self.lit, step + self.inside, step + UNIT - outside)
        ink: Ink = (np.clip(depth, 0, UNIT) * 255 // UNIT).astype(np.uint8)
        return ink


def _distances(target: NDArray[np.bool_], reach: int) -> NDArray[np.int32]:
    """Return each pixel's distance to the nearest True one: `isqrt(256 * squared)` units, at most `reach` + 1 pixels.

    The Euclidean distance is exact: along rows first, then over the rows above and below.
    """
    far = np.int16(reach + 1)
    column = np.arange(target.shape[2], dtype=np.int16)
    before = np.maximum.accumulate(np.where(target, column, -far), axis=2)
    after = np.minimum.accumulate(np.where(target, column, len(column) + far)[:, :, ::-1], axis=2)[:, :, ::-1]
    along = np.minimum(np.minimum(column - before, after - column), far) ** 2
    squared = along.copy()
    for rows in range(1, min(reach, target.shape[1] - 1) + 1):
        if rows * rows >= squared.max(initial=0):
            break
        moved = along + np.int16(rows * rows)
        np.minimum(squared[:, rows:], moved[:, :-rows], out=squared[:, rows:])
        np.minimum(squared[:, :-rows], moved[:, rows:], out=squared[:, :-rows])
    distances: NDArray[np.int32] = _ROOTS[squared]
    return distances


_ROOTS = np.floor(np.sqrt(UNIT**2 * np.arange((FINE // 2 + 1) ** 2 + 1))).astype(np.int32)


def centred(ink: Ink) -> Intensities:
    """Place ink `[N, 20, 20]` in 28x28 with its centre of mass as near to `CENTRE` as whole pixels go, as `[N, 784]`.

    The upper row goes to row `(2 * CENTRE * mass - 2 * sum(row * ink) + mass) // (2 * mass)`, at least 0 and at most
    so far down that the lowest ink is in the picture, and the columns alike.
    """
    canvas = np.zeros((len(ink), HEIGHT + BOX, WIDTH + BOX), dtype=np.uint8)  # what lies beyond 28 is empty
    mass = np.maximum(ink.sum(axis=(1, 2), dtype=np.int64), 1)
    box = Box.of(ink)
    corner = []
    for axis, end in ((2, box.top + box.height), (1, box.left + box.width)):
        moment = ink.sum(axis=axis, dtype=np.int64) @ np.arange(BOX)
        corner.append(np.clip((2 * CENTRE * mass - 2 * moment + mass) // (2 * mass), 0, HEIGHT - end))
    for digit, placed, top, left in zip(ink, canvas, *corner, strict=True):
        placed[top : top + BOX, left : left + BOX] = digit
    return canvas[:, :HEIGHT, :WIDTH].reshape(-1, PIXELS)
