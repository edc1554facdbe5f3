"""Strokes that draw an MNIST digit with a round pen: along the middle of its ink, and hatching where ink is wider."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCALE = 4  # the digit is enlarged before it is followed, so that a line is finer than its pixels
INK = 96  # intensity from which a pixel is ink
SPUR = 2  # pixels of the digit; a shorter line is left over from the thinning

Mask = NDArray[np.bool_]
Stroke = list[tuple[float, float]]
Path = list[tuple[int, int]]


@dataclass(frozen=True)
class Sheet:
    """A sheet to draw on, in units of its own."""

    side: float = 28
    """Side of the square sheet."""
    room: float = 26
    """Longest side of the digit's ink."""
    pen: float = 2.4
    """Width of a stroke."""

    def strokes(self, digit: NDArray[np.uint8]) -> list[Stroke]:
        """Draw a digit, uint8 `[28, 28]`, as large as there is room, in the middle: polylines of (x, y)."""
        ink = enlarged(digit) >= INK
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        unit = self.room / (1 + max(np.ptp(rows), np.ptp(columns)))
        top, left = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
        return [
            [(float(self.side / 2 + (x - left) * unit), float(self.side / 2 + (y - top) * unit)) for y, x in path]
            for path in (*middles(ink), *hatching(eroded(ink, self.pen / unit / 2)))
        ]


def enlarged(digit: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Interpolate bilinearly to `SCALE` times the side."""
    known = np.arange(len(digit))
    at = (np.arange(len(digit) * SCALE) + 0.5) / SCALE - 0.5
    rows = np.array([np.interp(at, known, row) for row in digit.astype(np.float64)])
    return np.array([np.interp(at, known, column) for column in rows.T]).T


def eroded(ink: Mask, radius: float) -> Mask:
    """Keep the pixels around which a disc of that radius is all ink."""
    reach = int(radius)
    around = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if x * x + y * y <= radius**2]
    padded = np.pad(ink, reach)
    return np.logical_and.reduce([np.roll(padded, step, axis=(0, 1)) for step in around])[reach:-reach, reach:-reach]


def hatching(area: Mask) -> list[Path]:
    """Fill an area with horizontal lines."""
    lines = []
    for y in range(0, len(area), SCALE // 2):
        bounds = np.flatnonzero(np.diff(area[y].astype(int), prepend=0, append=0)).reshape(-1, 2)
        lines += [[(y, int(start)), (y, int(end) - 1)] for start, end in bounds]
    return lines


def middles(ink: Mask) -> list[Path]:
    """Follow the middle of ink: from free ends first, straight on at crossings, until all of it is followed."""
    left = {(int(y), int(x)) for y, x in np.argwhere(thinned(ink))}
    paths: list[Path] = []
    while left:
        path = [min(left, key=lambda point: (len(beside(point, left)), point))]
        left.remove(path[0])
        while ahead := beside(path[-1], left):
            course = np.subtract(path[-1], path[-1 - min(SCALE, len(path) - 1)])
            path.append(max(ahead, key=lambda point: float(np.subtract(point, path[-1]) @ course)))
            left.remove(path[-1])
        drawn = {point for other in paths for point in other}
        branches = [beside(end, drawn | set(path[2:-2]))[:1] for end in (path[0], path[-1])]
        paths.append([*branches[0], *path, *branches[1]])
    return [path[:: SCALE // 2] + path[-1:] for path in paths if len(path) > SPUR * SCALE]


def thinned(ink: Mask) -> Mask:
    """Thin ink to lines of one pixel (Zhang and Suen, 1984, https://doi.org/10.1145/357994.358023)."""
    ink = np.pad(ink, 1)
    while True:
        before = ink
        for first in (True, False):
            n, ne, e, se, s, sw, w, nw = ring = [np.roll(ink, step, axis=(0, 1)) for step in CLOCKWISE]
            count = np.sum(ring, axis=0)
            turns = np.sum(
                [~here & then for here, then in zip(ring, (ne, e, se, s, sw, w, nw, n), strict=True)], axis=0
            )
            rim = ~(n & e & s) & ~(e & s & w) if first else ~(n & e & w) & ~(n & s & w)
            ink = ink & ~((count >= 2) & (count <= 6) & (turns == 1) & rim)
        if np.array_equal(ink, before):
            return ink[1:-1, 1:-1]


CLOCKWISE = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
"""Shifts that bring the northern neighbour, the north-eastern and so on to a pixel's place."""


def beside(point: tuple[int, int], among: set[tuple[int, int]]) -> Path:
    """Return the points of `among` that touch a point, horizontal and vertical neighbours first."""
    y, x = point
    near = [(y + down, x + right) for down, right in sorted(CLOCKWISE, key=lambda step: abs(step[0]) + abs(step[1]))]
    return [each for each in near if each in among]
