"""MNIST's form of ink: equal to its specification, for every pen; MNIST's own digits pass unchanged."""

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_runtime.ink import _MARGIN, BOX, CENTRE, FINE, LARGEST, THICKEST, THINNEST, UNIT, Strokes, normalise, scaled


def width(ink):
    """Return stroke widths in pixels of the 28x28, as the specification measures them."""
    return Strokes.of(np.pad(scaled(ink, FINE), ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))).width / UNIT


# The specification again, in Python's integers and loops, one pixel at a time.


def literal_box(ink):
    rows = [y for y, row in enumerate(ink) if any(row)]
    columns = [x for x in range(len(ink[0])) if any(row[x] for row in ink)]
    return rows[0], rows[-1] + 1 - rows[0], columns[0], columns[-1] + 1 - columns[0]


def literal_line(line, start, length, size):
    result = []
    for i in range(size):
        weights = [
            max(0, 2 * max(length, size) - abs((2 * i + 1) * length - (2 * j + 1) * size)) for j in range(length)
        ]
        total = sum(weights)
        result.append((2 * sum(w * line[start + j] for j, w in enumerate(weights)) + total) // (2 * total))
    return result


def literal_scaled(ink, side):
    top, height, left, width = literal_box(ink)
    longest = max(height, width)
    rows, columns = (max(1, (2 * side * size + longest) // (2 * longest)) for size in (height, width))
    tall = [literal_line([row[x] for row in ink], top, height, rows) for x in range(len(ink[0]))]
    return [literal_line([column[y] for column in tall], left, width, columns) for y in range(rows)]


def literal_distance(lit, wanted, y, x, reach):
    nearest = min(
        ((y - v) ** 2 + (x - u) ** 2 for v, row in enumerate(lit) for u, one in enumerate(row) if one == wanted),
        default=math.inf,
    )
    return math.isqrt(UNIT**2 * min(nearest, (reach + 1) ** 2))


def literal_form(ink):
    small, fine = literal_scaled(ink, BOX), literal_scaled(ink, FINE)
    sides = [0] * (FINE - len(fine[0]) + _MARGIN)
    fine = [[0] * _MARGIN + row + sides for row in fine]
    blank = [0] * len(fine[0])
    fine = [blank] * _MARGIN + fine + [blank] * (2 * FINE - len(fine))
    fine = fine[: FINE + 2 * _MARGIN]
    peak = max(max(row) for row in fine)
    lit = [[int(4 * value >= peak) for value in row] for row in fine]
    pixels = [(y, x) for y in range(len(lit)) for x in range(len(lit[0]))]
    inside = {(y, x): literal_distance(lit, 0, y, x, FINE // 2) if lit[y][x] else 0 for y, x in pixels}
    count = sum(map(sum, lit))
    drawn = 4 * (sum(inside.values()) - UNIT // 2 * count) // count
    width = drawn * sum(map(sum, fine)) * BOX // (255 * FINE * count)
    wanted = min(max(width, THINNEST), THICKEST)
    if width != wanted:
        step = UNIT // 2 * (wanted * FINE - BOX * drawn) // (UNIT * BOX - wanted)
        step = max(step, UNIT - max(inside.values()))
        redrawn = [[0] * len(lit[0]) for _ in lit]
        for y, x in pixels:
            depth = inside[y, x] if lit[y][x] else UNIT - literal_distance(lit, 1, y, x, _MARGIN)
            redrawn[y][x] = min(max(step + depth, 0), UNIT) * 255 // UNIT
        small = literal_scaled(redrawn, BOX)
    mass = sum(map(sum, small))
    moments = sum(y * sum(row) for y, row in enumerate(small)), sum(x * v for row in small for x, v in enumerate(row))
    top, left = (
        min(max((2 * CENTRE * mass - 2 * moment + mass) // (2 * mass), 0), 28 - size)
        for moment, size in zip(moments, (len(small), len(small[0])), strict=True)
    )
    digit = [[0] * 28 for _ in range(28)]
    for y, row in enumerate(small):
        digit[top + y][left : left + len(row)] = row
    return digit


def scribble(rng, size, pen):
    """Draw a random polyline, antialiased, uint8 `[height, width]`."""
    picture = Image.new("L", tuple(4 * side for side in size))
    points = [tuple(rng.uniform(0.2, 0.8, 2) * picture.size) for _ in range(3)]
    ImageDraw.Draw(picture).line(points, fill=int(rng.integers(120, 256)), width=max(1, round(4 * pen)))
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


@pytest.mark.parametrize(("size", "pen"), [((40, 30), 1), ((30, 60), 4), ((90, 90), 1), ((25, 25), 14), ((9, 70), 2)])
def test_the_form_equals_the_specification_computed_a_pixel_at_a_time(size, pen):
    ink = scribble(np.random.default_rng(size[0]), size, pen)
    assert np.array_equal(normalise(ink[None])[0].reshape(28, 28), literal_form(ink.tolist()))


def test_digits_of_mnist_with_usual_strokes_pass_unchanged(test_split):
    digits = test_split.images[:1000]
    widths = width(digits)
    usual = (widths >= THINNEST / UNIT) & (widths <= THICKEST / UNIT)
    assert usual.mean() > 0.9
    assert np.array_equal(normalise(digits[usual]), digits[usual].reshape(-1, 784))


def test_the_measured_stroke_width_is_independent_of_size(test_split):
    digits = test_split.images[:100]
    large = np.stack([np.asarray(Image.fromarray(digit).resize((252, 252))) for digit in digits])
    assert np.percentile(np.abs(width(large) / width(digits) - 1), 95) < 0.1


POLYLINES = {
    "0": [[(0.5, 0), (0.25, 0.2), (0.2, 0.6), (0.4, 1), (0.65, 0.9), (0.8, 0.5), (0.7, 0.1), (0.5, 0)]],
    "flagged 1": [[(0.3, 0.25), (0.52, 0), (0.52, 1)]],
    "2": [[(0.2, 0.2), (0.35, 0.02), (0.65, 0.02), (0.8, 0.2), (0.75, 0.4), (0.2, 1), (0.85, 1)]],
    "open 4": [[(0.25, 0), (0.2, 0.55), (0.8, 0.55)], [(0.7, 0.05), (0.66, 1)]],
    "barred 7": [[(0.15, 0), (0.82, 0), (0.4, 1)], [(0.3, 0.5), (0.78, 0.5)]],
}


def drawn(strokes, pen):
    """Draw polylines of 170 pixels with a round pen on 280x280."""
    picture = Image.new("L", (560, 560))
    brush = ImageDraw.Draw(picture)
    for stroke in strokes:
        points = [(110 + 340 * x, 110 + 340 * y) for x, y in stroke]
        brush.line(points, fill=255, width=2 * pen)
        for x, y in points:
            brush.ellipse((x - pen, y - pen, x + pen, y + pen), fill=255)
    return np.asarray(picture.resize((280, 280), Image.Resampling.BOX))


@pytest.mark.parametrize("pen", [1, 2, 4, 8, 16, 28, 44])
def test_every_pen_is_brought_near_the_stroke_width_of_mnist_and_keeps_the_shape(pen):
    digits = normalise(np.stack([drawn(strokes, pen) for strokes in POLYLINES.values()]))
    usual = normalise(np.stack([drawn(strokes, 20) for strokes in POLYLINES.values()]))
    widths = width(digits.reshape(-1, 28, 28))
    assert np.all((widths > 0.8 * THINNEST / UNIT) & (widths < 1.2 * THICKEST / UNIT))
    assert np.corrcoef(np.concatenate([digits, usual]))[:5, 5:].argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


def test_a_batch_gets_the_forms_of_its_single_pictures(test_split):
    pictures = np.stack([drawn(strokes, pen) for pen, strokes in enumerate(POLYLINES.values(), 1)])
    pictures[2] = 0
    batch = normalise(pictures)
    assert not batch[2].any()
    assert np.array_equal(batch, np.concatenate([normalise(picture[None]) for picture in pictures]))


def test_no_pictures_give_no_digits():
    assert normalise(np.zeros((0, 50, 40), np.uint8)).shape == (0, 784)


def test_the_largest_picture_is_summed_exactly():
    rng = np.random.default_rng(0)
    ink = rng.integers(200, 256, (1, LARGEST, LARGEST), np.uint8)
    column = ink[0, :, 0].tolist()
    assert scaled(ink[:, :, :1], BOX)[0, :, 0].tolist() == literal_line(column, 0, LARGEST, BOX)
