"""The fifteen corruptions of MNIST-C, made again from their description (Mu and Gilmer 2019, arXiv:1906.02337).

A corruption takes digits float64 `[N, 28, 28]`, 0 black to 1 white, and a generator of random numbers, and returns new
digits. Strengths are those of the published data set. SciPy comes with scikit-learn.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Digits = NDArray[np.float64]
Rng = np.random.Generator

_SIDE = 28
_MIDDLE = (_SIDE - 1) / 2
_ROWS, _COLUMNS = np.mgrid[:_SIDE, :_SIDE].astype(np.float64)


def shot_noise(digits: Digits, rng: Rng) -> Digits:
    """Count few photons: a white pixel is three of them on average."""
    return rng.poisson(digits * 3) / 3


def impulse_noise(digits: Digits, rng: Rng) -> Digits:
    """Make 17 % of the pixels black or white."""
    hit, white = rng.random(digits.shape) < 0.17, rng.random(digits.shape) < 0.5
    return np.where(hit, white, digits)


def glass_blur(digits: Digits, rng: Rng) -> Digits:
    """Blur, swap neighbouring pixels twice, at random, and blur again."""
    blurred, every = _blur(digits, 0.7), np.arange(len(digits))
    for _ in range(2):
        for row in range(_SIDE - 1, 1, -1):
            for column in range(_SIDE - 1, 1, -1):
                up, left = rng.integers(0, 2, (2, len(digits))) * (rng.random(len(digits)) < 0.5)
                here, there = (every, row, column), (every, row - up, column - left)
                blurred[here], blurred[there] = blurred[there], blurred[here].copy()
    return _blur(blurred, 0.7)


def motion_blur(digits: Digits, rng: Rng) -> Digits:
    """Smear each pixel along a direction within 45 degrees of the lines, by half a Gaussian of 3 pixels."""
    angle = rng.uniform(-np.pi / 4, np.pi / 4, len(digits))
    weights = np.exp(-np.square(np.arange(11)) / (2 * 3**2))
    padded = np.pad(digits, [(0, 0), (11, 11), (11, 11)])
    every = np.arange(len(digits))[:, None, None]
    smeared = np.zeros_like(digits)
    for step, weight in enumerate(weights / weights.sum()):
        down, right = (np.rint(step * of(angle)).astype(int)[:, None, None] for of in (np.sin, np.cos))
        smeared += weight * padded[every, _ROWS.astype(int) + 11 + down, _COLUMNS.astype(int) + 11 + right]
    return smeared


def shear(digits: Digits, rng: Rng) -> Digits:
    """Lean by 0.4 radians to the left or to the right."""
    lean = 0.4 * _signs(len(digits), rng)
    return _warped(digits, np.array([[np.ones_like(lean), -np.sin(lean)], [np.zeros_like(lean), np.cos(lean)]]))


def scale(digits: Digits, _: Rng) -> Digits:
    """Shrink to 0.7 of the size."""
    return _warped(digits, np.eye(2)[:, :, None] / 0.7 * np.ones(len(digits)))


def rotate(digits: Digits, rng: Rng) -> Digits:
    """Rotate by 0.4 radians, 23 degrees, either way."""
    angle = 0.4 * _signs(len(digits), rng)
    return _warped(digits, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def brightness(digits: Digits, _: Rng) -> Digits:
    """Brighten everything by half of white."""
    return digits + 0.5


def translate(digits: Digits, rng: Rng) -> Digits:
    """Shift by 3 pixels in each direction."""
    padded = np.pad(digits, [(0, 0), (3, 3), (3, 3)])
    down, right = (3 + 3 * _signs(len(digits), rng).astype(int) for _ in range(2))
    views = np.lib.stride_tricks.sliding_window_view(padded, (_SIDE, _SIDE), axis=(1, 2))
    return views[np.arange(len(digits)), down, right]


def stripe(digits: Digits, _: Rng) -> Digits:
    """Invert the outer quarters, so that the digit's middle stands in a dark stripe."""
    return np.where((_COLUMNS < 7) | (_COLUMNS >= 21), 1 - digits, digits)


def fog(digits: Digits, rng: Rng) -> Digits:
    """Mix one part of the digit with three of a plasma fractal, whose octaves fall by 1.4 squared."""
    white = digits.max(axis=(1, 2), keepdims=True)
    return (digits + 3 * _plasma(len(digits), 1.4, rng)[:, :_SIDE, :_SIDE]) * white / (white + 3)


def spatter(digits: Digits, rng: Rng) -> Digits:
    """Splash drops of dark grey mud."""
    drops = _blur(rng.normal(0.65, 0.3, digits.shape), 1) > 0.65
    mud = _blur(drops.astype(np.float64), 1.5)
    mud[mud < 0.8] = 0
    return digits * (1 - mud) + 63 / 255 * mud


def dotted_line(digits: Digits, rng: Rng) -> Digits:
    """Draw a dotted line from the left border to the right."""
    first, last = rng.integers(0, 27, (2, len(digits), 1, 1))
    line = _line(np.zeros_like(first), first, np.full_like(first, 27), last)
    return np.minimum(digits + line * (_COLUMNS % 4 >= 2), 1)


def zigzag(digits: Digits, rng: Rng) -> Digits:
    """Draw a zigzag line, 2 pixels up and down, from the left border to the right."""
    first = rng.integers(0, 27, (len(digits), 1, 1))
    angle = np.arctan(rng.integers(-5, 5, (len(digits), 1, 1)) / 23)
    length = 23 / np.cos(angle)
    drawn = digits
    for corner in range(6):
        # Corners lie at 0, 2, 6, 10, ... pixels along the line, and the last one at its end.
        along = [np.minimum(max(0, 4 * at - 2), length) for at in (corner, corner + 1)]
        off = [np.full_like(along[0], 0 if at == 0 else 2 * (-1) ** (at - 1)) for at in (corner, corner + 1)]
        ends = [
            (2 + x * np.cos(angle) - y * np.sin(angle), first + x * np.sin(angle) + y * np.cos(angle))
            for x, y in zip(along, off, strict=True)
        ]
        drawn = np.minimum(drawn + _line(*ends[0], *ends[1]), 1)
    return drawn


def canny_edges(digits: Digits, _: Rng) -> Digits:
    """Keep the edges alone (Canny 1986): maxima of the gradient above 0.2, and those above 0.1 that continue them."""
    smooth = _blur(digits, 1)
    down, right = ndimage.sobel(smooth, axis=1), ndimage.sobel(smooth, axis=2)
    strength = np.hypot(down, right)
    largest = np.maximum(np.maximum(np.abs(down), np.abs(right)), 1e-9)
    planes = np.arange(len(digits))[:, None, None] * np.ones_like(digits)
    ahead, behind = (
        ndimage.map_coordinates(
            strength, [planes, _ROWS + sign * down / largest, _COLUMNS + sign * right / largest], order=1
        )
        for sign in (1, -1)
    )
    edges = (strength >= ahead) & (strength >= behind) & (strength > 0.1)
    inside_a_picture = np.zeros((3, 3, 3), int)
    inside_a_picture[1] = 1
    connected, count = ndimage.label(edges, inside_a_picture)
    sure = np.zeros(count + 1, bool)
    sure[connected[edges & (strength > 0.2)]] = True
    return (edges & sure[connected]).astype(np.float64)


CORRUPTIONS: tuple[Callable[[Digits, Rng], Digits], ...] = (
    *(shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate, stripe, fog),
    *(spatter, dotted_line, zigzag, canny_edges),
)
"""All fifteen, in the order of the paper."""

_CHUNK = 100  # digits; bounds the memory that fog takes


def corrupted(
    images: NDArray[np.uint8], corruption: Callable[[Digits, Rng], Digits], seed: int = 0
) -> NDArray[np.uint8]:
    """Return uint8 `[N, 28, 28]`, corrupted; the seed decides how."""
    rng = np.random.default_rng(seed)
    chunks = [corruption(images[i : i + _CHUNK] / 255, rng) for i in range(0, len(images), _CHUNK)]
    return np.rint(np.concatenate(chunks).clip(0, 1) * 255).astype(np.uint8)


def _blur(digits: Digits, sigma: float) -> Digits:
    return ndimage.gaussian_filter(digits, (0, sigma, sigma), mode="nearest")


def _signs(count: int, rng: Rng) -> Digits:
    return rng.choice([-1.0, 1.0], count)


def _warped(digits: Digits, maps: Digits) -> Digits:
    """Sample each digit where its map `[2, 2, N]` of (x, y) from the middle leads."""
    x, y = _COLUMNS - _MIDDLE, _ROWS - _MIDDLE
    columns, rows = (row[0][:, None, None] * x + row[1][:, None, None] * y + _MIDDLE for row in maps)
    planes = np.arange(len(digits))[:, None, None] * np.ones_like(rows)
    return ndimage.map_coordinates(digits, [planes, rows, columns], order=1)


def _line(column: Digits, row: Digits, last_column: Digits, last_row: Digits) -> Digits:
    """Return lines `[N, 28, 28]` that fade over 2.3 rows, black where they end."""
    run = np.where(last_column > column, last_column - column, 1)
    away = np.abs(_ROWS - row - (last_row - row) / run * (_COLUMNS - column))
    within = (np.floor(column) <= _COLUMNS) & (np.ceil(last_column) > _COLUMNS) & (last_column > column)
    return np.where(within, (np.log(1 - np.minimum(away, 2.2999) / 2.3) + 1).clip(0, 1), 0)


def _plasma(count: int, decay: float, rng: Rng, side: int = 256) -> Digits:
    """Draw height maps `[count, side, side]` of 0 to 1 by the diamond-square algorithm, which wraps around."""
    heights = np.zeros((count, side, side))
    step, wobble = side, 100.0**2

    def centres(total: Digits) -> Digits:
        return total / 4 + rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        above = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, half::step] = centres(above + np.roll(above, -1, axis=2))
        middles = heights[:, half::step, half::step]
        between = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = centres(between)
        between = middles + np.roll(middles, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = centres(between)
        step, wobble = half, wobble / decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)
