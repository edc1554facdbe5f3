"""Digits on ruled, squared and printed paper, in form fields and on receipts: the lines of the paper are removed."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_runtime import Classifier, DigitError
from mnist_runtime.io.images import read_image

SIDE = 320  # pixels of a picture


def written(digit, rng, size=(SIDE, SIDE), ink=(130, 170), margin=20):
    """A test digit at a random place on a sheet: the share of ink 0-1 `[height, width]`, and the ink's box."""
    cut = Image.fromarray(digit).crop(Image.fromarray(digit).getbbox())
    scale = rng.uniform(*ink) / max(cut.size)
    large = cut.resize([round(side * scale) for side in cut.size], Image.Resampling.BICUBIC)
    left, top = (
        int(rng.integers(margin, sheet - side - margin + 1)) for sheet, side in zip(size, large.size, strict=True)
    )
    sheet = Image.new("L", size)
    sheet.paste(large, (left, top))
    return np.asarray(sheet, float) / 255, (left, top, left + large.width, top + large.height)


def printed(draw, rng, ink, *, colour=(0, 0, 0), tilt=0.0):
    """A noisy JPEG of the ink over lines that `draw` paints 50 to 170 grey levels darker than the paper."""
    height, width = ink.shape
    mask = Image.new("L", (4 * width, 4 * height))
    draw(Scaled(ImageDraw.Draw(mask)))
    mask = mask.rotate(tilt, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BOX)
    depth = rng.uniform(50, 170) / 235
    lines = (np.asarray(mask, float) / 255)[..., None] * depth * (1 - np.array(colour))
    paper = 235 * (1 - lines) * (1 - 0.85 * ink[..., None])
    picture = (paper + rng.normal(0, 2, paper.shape)).clip(0, 255).astype(np.uint8)
    return encode(Image.fromarray(picture), "JPEG", quality=80)


class Scaled:
    """A drawing whose lines are given in pixels of the picture, and drawn four times as large."""

    def __init__(self, draw):
        self._draw = draw

    def line(self, x0, y0, x1, y1, width):
        """Draw a horizontal or vertical line whose middle lies between two pixels."""
        half = width / 2
        across = (half, 0) if x0 == x1 else (0, half)
        box = (x0 - across[0], y0 - across[1], x1 + across[0], y1 + across[1])
        self._draw.rectangle([4 * side for side in box[:2]] + [4 * side - 1 for side in box[2:]], fill=255)


def encode(picture, format_="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format_, **options)
    return file.getvalue()


def plain(digit, rng):
    return printed(lambda draw: None, rng, written(digit, rng)[0])


def ruled(digit, rng, tilt=0.0):
    start = rng.integers(0, 64)

    def lines(draw):
        for y in range(start - 64, SIDE + 64, 64):
            draw.line(-SIDE, y, 2 * SIDE, y, 2)

    return printed(lines, rng, written(digit, rng)[0], tilt=tilt)


def ruled_and_tilted(digit, rng):
    return ruled(digit, rng, tilt=rng.uniform(-4, 4))


def squared(digit, rng):
    across, down = rng.integers(0, 32, 2)

    def lines(draw):
        for y in range(down, SIDE, 32):
            draw.line(0, y, SIDE, y, 2)
        for x in range(across, SIDE, 32):
            draw.line(x, 0, x, SIDE, 2)

    return printed(lines, rng, written(digit, rng)[0])


def red_margin(digit, rng):
    x = rng.integers(30, 110)
    return printed(lambda draw: draw.line(x, 0, x, SIDE, 3), rng, written(digit, rng)[0], colour=(0.9, 0.1, 0.1))


def underlined(digit, rng):
    ink, (left, _, right, bottom) = written(digit, rng)
    y = min(bottom + rng.integers(-4, 14), SIDE - 4)
    ends = max(0, left - rng.integers(10, 60)), min(SIDE, right + rng.integers(10, 60))
    return printed(lambda draw: draw.line(ends[0], y, ends[1], y, 3), rng, ink)


def boxed(digit, rng):
    ink, (left, top, right, bottom) = written(digit, rng)
    pads = rng.integers(4, 19, 4)
    x0, y0, x1, y1 = left - pads[0], top - pads[1], right + pads[2], bottom + pads[3]

    def lines(draw):
        for y in (y0, y1):
            draw.line(x0, y, x1, y, 3)
        for x in (x0, x1):
            draw.line(x, y0, x, y1, 3)

    return printed(lines, rng, ink)


def sudoku_cell(digit, rng):
    def lines(draw):
        for rim in (rng.integers(0, 4), SIDE - rng.integers(0, 4)):
            draw.line(0, rim, SIDE, rim, 6)
            draw.line(rim, 0, rim, SIDE, 6)

    return printed(lines, rng, written(digit, rng)[0])


def sudoku_cell_cut_off_centre(digit, rng):
    x, y = rng.integers(4, 18, 2)

    def lines(draw):
        draw.line(0, y, SIDE, y, 5)
        draw.line(x, 0, x, SIDE, 5)

    return printed(lines, rng, written(digit, rng)[0])


def form_field(digit, rng):
    return printed(lambda draw: None, rng, written(digit, rng, (640, 160), (95, 105), 10)[0])


def receipt(digit, rng):
    return printed(lambda draw: None, rng, written(digit, rng, (160, 640), (95, 105), 10)[0])


PAPERS = (
    ruled,
    ruled_and_tilted,
    squared,
    red_margin,
    underlined,
    boxed,
    sudoku_cell,
    sudoku_cell_cut_off_centre,
    form_field,
    receipt,
)


def share_right(paper, split):
    """Return the share of 60 test digits on a paper that the bundled model recognises or that are refused."""
    rng = np.random.default_rng(20261126)
    chosen = rng.choice(len(split.images), 60, replace=False)
    right = 0
    for digit, label in zip(split.images[chosen], split.labels[chosen], strict=True):
        try:
            right += Classifier().classify(read_image(paper(digit, rng), "page")).label == label
        except DigitError:
            right += 1
    return right / len(chosen)


@pytest.fixture(scope="module")
def on_plain_paper(test_split):
    return share_right(plain, test_split)


@pytest.mark.parametrize(
    "paper",
    [
        pytest.param(paper, id=paper.__name__, marks=() if paper in {ruled, boxed} else pytest.mark.heavy)
        for paper in PAPERS
    ],
)
def test_digits_on_paper_with_lines_are_recognised_as_well_as_on_plain_paper(paper, test_split, on_plain_paper):
    assert share_right(paper, test_split) > on_plain_paper - 0.051


def beside(digits, gap=20):
    """Digits in a row, dark on light, their inks at least `gap` pixels apart."""
    cuts = [np.asarray(Image.fromarray(digit).crop(Image.fromarray(digit).getbbox())) for digit in digits]
    large = [np.kron(np.pad(cut, ((0, 20 - len(cut)), (0, 0))), np.ones((6, 6), np.uint8)) for cut in cuts]
    return encode(Image.fromarray(255 - np.pad(np.hstack([np.pad(cut, ((0, 0), (0, gap))) for cut in large]), 30)))


def test_several_digits_side_by_side_are_refused_and_single_ones_are_not(test_split):
    with pytest.raises(DigitError, match="several digits side by side"):
        read_image(beside(test_split.images[:2]), "page")
    refused = 0
    for digit in test_split.images[:200]:
        try:
            read_image(beside([digit]), "page")
        except DigitError:
            refused += 1
    assert refused <= 1


def test_a_1_drawn_as_one_straight_line_is_not_removed():
    sheet = np.full((300, 300), 255, np.uint8)
    sheet[40:260, 148:152] = 0
    one = read_image(encode(Image.fromarray(sheet)), "page").reshape(28, 28)
    assert Classifier().classify(one).label == 1


def test_the_stem_of_a_flagged_1_drawn_with_a_thin_pen_is_not_removed():
    sheet = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(sheet).line([(118, 67), (143, 30), (143, 250)], fill=0, width=2)
    one = read_image(encode(sheet), "page").reshape(28, 28)
    assert np.count_nonzero(one.any(axis=1)) == 20
    assert np.count_nonzero(one.any(axis=0)) < 8  # its flag alone would be 14 wide
