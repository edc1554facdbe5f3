"""Ruled, squared or printed lines of the paper: found among the ink, and removed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ink = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

_STEEPEST = 0.09  # pixels per pixel, 5 degrees: how far a page is turned
_SHORTEST = 0.25  # of the picture's shorter side: the shortest line
_GAP = 4  # pixels over which a line may fade
RIM = 4
"""Pixels from the picture's rim at which a line reaches the rim."""
_LEFT_OVER = 0.12  # of the picture's shorter side: the least span of a digit


@dataclass(frozen=True)
class Line:
    """A long, thin, straight piece of ink."""

    band: Mask
    """All pixels that it covers, `[height, width]`."""
    mask: Mask
    """Pixels of the line where no other stroke crosses it, `[height, width]`."""
    thickness: float
    """Thickness in pixels, the median along the line."""
    across: bool
    """True if both ends reach the rim."""

    def transposed(self) -> "Line":
        """Return the line in the transposed picture."""
        return Line(self.band.T, self.mask.T, self.thickness, self.across)


def without_lines(ink: Ink, side: int) -> Ink:
    """Return ink without the lines of its paper, or all ink if nothing of a digit's size would remain.

    `side` is the shorter side of the whole picture; of its blank margins, `ink` needs `RIM` + 1 pixels only. A line
    belongs to the paper if it crosses the whole picture, is clearly less than half as thick as the other ink, or is
    separate from ink of a digit's size. Where the digit crosses a line, the digit stays.
    """
    lit = ink > 0
    down, across = _run_lengths(lit.T).T, _run_lengths(lit)
    lines = [*_lines(lit, down, side), *(line.transposed() for line in _lines(lit.T, across.T, side))]
    if not lines:
        return ink
    every = np.logical_or.reduce([line.mask for line in lines])
    strokes = np.minimum(down, across)[lit & ~every & (ink > 102)]  # fainter ink is a line's blurred edge
    if not len(strokes):
        return ink
    least = _LEFT_OVER * side
    pen = float(np.median(strokes[strokes >= np.median(strokes)]))
    ruled = [line for line in lines if line.across or line.thickness < pen / 2 - 1 or _apart(line, lit, every, least)]
    if not ruled:
        return ink
    rest = lit & ~np.logical_or.reduce([line.mask for line in ruled])
    beside = rest & ~np.logical_or.reduce([line.band for line in ruled]) & (ink > 102)
    rest = connected(rest, beside)  # drops the remains where lines cross one another
    return np.where(rest, ink, 0) if _spans(rest) >= least else ink


def _runs(lit: Mask) -> tuple[Ints, Ints]:
    """Return starts and ends of the horizontal runs, counted along rows one pixel longer than those of `lit`."""
    flat = np.zeros(lit.size + len(lit) + 1, dtype=bool)
    flat[1:].reshape(len(lit), -1)[:, :-1] = lit  # a pixel of ground before the first and after each row
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return changes[::2], changes[1::2]


def _run_lengths(lit: Mask) -> Ints:
    """Return the length of each lit pixel's horizontal run, 0 for the other pixels."""
    starts, ends = _runs(lit)
    lengths = np.zeros(lit.shape, dtype=np.int64)
    lengths[lit] = np.repeat(ends - starts, ends - starts)
    return lengths


def _lines(lit: Mask, run: Ints, side: int) -> list[Line]:
    """Find nearly horizontal lines by a Hough transform of the middles of thin runs.

    The longest line comes first, then its parallels; then the longest of the remaining lines, and so on.
    """
    height, width = lit.shape
    shortest = _SHORTEST * side
    starts = lit & (run <= max(3, side // 32))
    starts[1:] &= ~lit[:-1]
    top, column = np.divmod(np.flatnonzero(starts), width)
    size = run[top, column]
    middle = top + (size - 1) / 2
    slopes = np.arange(-_STEEPEST, _STEEPEST, 2 / width) + 1 / width
    lines: list[Line] = []
    while len(column) > 0.6 * shortest:
        offsets = np.rint(middle - slopes[:, None] * (column - width / 2)).astype(np.int64) + height
        cells = offsets + 3 * height * np.arange(len(slopes))[:, None]
        votes = np.bincount(cells.ravel(), minlength=3 * height * len(slopes)).reshape(len(slopes), -1)
        votes[:, 1:-1] = votes[:, :-2] + votes[:, 1:-1] + votes[:, 2:]
        best = int(votes.max(axis=1).argmax())
        free = np.ones(len(column), dtype=bool)
        for offset in np.argsort(-votes[best], kind="stable"):
            chosen = free & (np.abs(offsets[best] - offset) <= 2)
            if votes[best, offset] < 0.6 * shortest:
                break
            if np.count_nonzero(chosen) >= 0.6 * shortest:
                fit = _fitted(column[chosen], middle[chosen])
                on = np.abs(middle - fit[0] * column - fit[1]) <= 1.5
                line = _traced(lit, run, fit, column[on], float(np.median(size[on])), shortest)
                lines += [] if line is None else [line]
                free &= ~(chosen | on)
        if free.all():
            break
        column, size, middle = column[free], size[free], middle[free]
    return lines


def _fitted(x: Ints, y: NDArray[np.float64]) -> tuple[float, float]:
    """Fit a line to the points, then to the nearest half of them; return its slope and its y at x = 0."""
    for _ in range(2):
        across, up = x - x.sum() / len(x), y - y.sum() / len(y)
        slope = float(across @ up / max(across @ across, 1.0))
        start = float(y.sum() - slope * x.sum()) / len(x)
        rest = np.abs(y - slope * x - start)
        nearest = np.argsort(rest)[: (len(x) + 1) // 2]
        x, y = x[nearest], y[nearest]
    return slope, start


def _traced(
    lit: Mask, run: Ints, fit: tuple[float, float], columns: Ints, thickness: float, shortest: float
) -> Line | None:
    """Follow a line along its longest stretch; None if the stretch is too short, or mostly crossed by other ink."""
    height, width = lit.shape
    x = np.arange(width)
    y = fit[0] * x + fit[1]
    inside = (y > -1) & (y < height)
    row = np.clip(np.rint(y).astype(np.int64), 0, height - 1)
    thin = np.zeros(width, dtype=bool)
    thin[columns] = True
    seen = np.flatnonzero(inside & (thin | lit[row, x]))
    if not len(seen):
        return None
    stretches = np.split(seen, np.flatnonzero(np.diff(seen) > _GAP + 1) + 1)
    stretch = max(stretches, key=lambda each: int(thin[each].sum()))
    first, last = int(stretch[0]), int(stretch[-1])
    length = last - first + 1
    if length < shortest or thin[stretch].sum() < 0.5 * length:
        return None
    ends = [min(end, width - 1 - end) <= RIM or not RIM < y[end] < height - 1 - RIM for end in (first, last)]
    covered = slice(max(0, first - 1), last + 2)
    half = round(thickness / 2 + 1)
    band = np.zeros(lit.shape, dtype=bool)
    for beside in range(-half, half + 1):
        band[np.clip(row[covered] + beside, 0, height - 1), x[covered]] = True
    return Line(band, band & lit & (run <= 1.5 * thickness + 2), thickness, all(ends))


def _apart(line: Line, lit: Mask, every: Mask, least: float) -> bool:
    """Return True if little ink besides lines is connected to the line, and the unconnected ink has a digit's size."""
    together = connected(lit, line.mask)
    others = np.count_nonzero(together & ~every)
    few = bool(others < 0.25 * np.count_nonzero(together & every))
    return few and _spans(lit & ~together) >= least


def _spans(lit: Mask) -> int:
    """Return the longer side of the box around the lit pixels, 0 if there are none."""
    return max(int(np.ptp(where)) + 1 if len(where := np.flatnonzero(lit.any(axis=axis))) else 0 for axis in (0, 1))


def connected(lit: Mask, seed: Mask) -> Mask:
    """Return the lit pixels that are connected, also diagonally, to a lit pixel of `seed`.

    Each run takes the lowest number among the runs it touches, then the number of that run, until no number changes.
    """
    starts, ends = _runs(lit)
    stride = lit.shape[1] + 1
    first = np.searchsorted(ends, starts + stride, side="left")  # of the runs in the next row
    last = np.searchsorted(starts, ends + stride, side="right")
    count = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(starts)), count)
    below = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + np.repeat(first, count)
    piece = np.arange(len(starts))
    before = np.full_like(piece, -1)
    while not np.array_equal(before, piece):
        before = piece.copy()
        lowest = np.minimum(piece[above], piece[below])
        for run in (above, below):
            np.minimum.at(piece, piece[run], lowest)
            np.minimum.at(piece, run, lowest)
        piece = piece[piece]
    pixels = np.repeat(piece, ends - starts)
    seeded = np.zeros(len(starts), dtype=bool)
    seeded[pixels[seed[lit]]] = True
    found = np.zeros_like(lit)
    found[lit] = seeded[pixels]
    return found
