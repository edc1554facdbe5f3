"""The cost of reading a picture: a drawing, and photographs of 12 megapixels beside Pillow's decoding of them.

Exits with 1 if a bound is missed. A photograph is a test digit on lit paper with noise, 4000x3000, as JPEG and PNG.
"""

import io
import statistics
import sys
import timeit
from collections.abc import Callable

import numpy as np
from _claim import Claim, report
from PIL import Image

from mnist_runtime.io.images import read_image
from mnist_train.data.bundled import load_split

REPEATS = 9
DRAWING_CEILING = 5  # milliseconds
PHOTOGRAPH_CEILING = 1.3
PHOTOGRAPH = 4000, 3000


def drawing(digit: np.ndarray) -> bytes:
    """Draw a digit of 280x280 in the middle of 460x460 white pixels."""
    canvas = Image.new("L", (460, 460), 255)
    canvas.paste(Image.fromarray(255 - digit).resize((280, 280), Image.Resampling.BICUBIC), (90, 90))
    return encoded(canvas, "PNG")


def photograph(digit: np.ndarray, format_: str) -> bytes:
    """Draw a digit in the middle of paper that is lit from the left, with a sensor's noise."""
    width, height = PHOTOGRAPH
    ink = Image.new("L", PHOTOGRAPH)
    ink.paste(Image.fromarray(digit).resize((1400, 1400), Image.Resampling.BICUBIC), (1300, 800))
    paper = np.linspace(230, 170, width)[None, :, None] * np.array([1.0, 0.98, 0.93])
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 1))
    lit = paper * (1 - 0.8 * np.asarray(ink, np.float64)[:, :, None] / 255) + noise
    return encoded(Image.fromarray(lit.clip(0, 255).astype(np.uint8)), format_)


def encoded(picture: Image.Image, format_: str) -> bytes:
    """Save a picture into memory."""
    stream = io.BytesIO()
    picture.save(stream, format_, quality=90)
    return stream.getvalue()


def alternate(ours: Callable[[], object], theirs: Callable[[], object], number: int) -> tuple[float, float]:
    """Return the median milliseconds of each call, measured in turn."""
    pairs = [[timeit.timeit(call, number=number) / number for call in (ours, theirs)] for _ in range(REPEATS)]
    ours_ms, theirs_ms = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    return ours_ms, theirs_ms


def claims() -> list[Claim]:
    """Measure each kind of picture."""
    digit = load_split("test").images[0]
    picture = drawing(digit)
    ours, decoding = alternate(lambda: read_image(picture, "it"), lambda: Image.open(io.BytesIO(picture)).load(), 10)
    limit = f"{DRAWING_CEILING} ms"
    found = [Claim(f"read_image, drawing of 460x460 / {limit}", f"{ours:.1f} ms", limit, ours / DRAWING_CEILING, 1)]
    print(f"of which Pillow decodes {decoding:.1f} ms")
    for format_ in ("JPEG", "PNG"):
        data = photograph(digit, format_)
        ours, theirs = alternate(
            lambda data=data: read_image(data, "it"), lambda data=data: Image.open(io.BytesIO(data)).load(), 1
        )
        texts = (f"{ours:.0f} ms", f"{theirs:.0f} ms")
        found.append(
            Claim(f"read_image, {format_} of 12 MP / Pillow's load", *texts, ours / theirs, PHOTOGRAPH_CEILING)
        )
    return found


if __name__ == "__main__":
    sys.exit(report(claims()))
