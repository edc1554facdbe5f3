"""Other people's digits, corrupted digits and letters, read by the bundled models. Exits with 1 if a bound is missed.

`python benchmarks/handwriting.py` takes some minutes. It shows the convolutional model, to which the bounds apply, and
the linear one. No model was trained or chosen on any of these pictures:

- UCI: the 1,797 digits of `sklearn.datasets.load_digits`, by other writers than MNIST's, 8x8 pixels of 17 greys.
  Each is enlarged to 160x160 (bicubic), drawn dark on light with a margin of 40 pixels, saved as PNG, and read as any
  photograph is. A refused picture counts as wrong and as not answered.
- MNIST-C: the 10,000 test digits under each of fifteen corruptions (`_corruptions.py`), as arrays, in place.
- Letters: the 52 Latin ones, as pictures, in five fonts that no model was trained on. People read twelve of them as
  digits, too (O, l, S, ...), so the share is also given without these.
"""

import io
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from _corruptions import CORRUPTIONS, corrupted
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from mnist_export.strangers import FONTS, foreign_digit, letter
from mnist_runtime import Classifier, DigitError, OptionError
from mnist_runtime.io.images import read_image
from mnist_runtime.verdicts import VERDICTS
from mnist_train.data.bundled import load_split
from mnist_train.no_digit import LETTERS

MAX_ERROR = 0.001
"""Stated risk: share of wrong answers; a picture is answered if its verdict is "digit"."""

Digits = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Pictures as the image recipe reads them."""

    digits: Digits
    """uint8 `[N, 784]`, without the refused ones."""
    labels: NDArray[np.int64]
    """Labels of `digits`, int64 `[N]`; -1 for what is no digit."""
    count: int
    """Number of pictures, refused ones included."""


@dataclass(frozen=True)
class Row:
    """One figure of each model, and the bound that the convolutional one has to keep."""

    what: str
    figures: tuple[float, ...]
    bound: float | None = None
    at_least: bool = True

    @property
    def kept(self) -> bool:
        """True if there is no bound, or if it holds."""
        return self.bound is None or (self.figures[0] >= self.bound if self.at_least else self.figures[0] <= self.bound)

    def __str__(self) -> str:
        figures = "".join(f"{'none':>11}" if np.isnan(figure) else f"{figure:>11.2%}" for figure in self.figures)
        verdict = "" if self.bound is None else "ok" if self.kept else "MISSED"
        sign = "" if self.bound is None else f"{'>=' if self.at_least else '<='} {self.bound:.1%}"
        return f"{verdict:7}{self.what:44}{figures}{'':8}  {sign}"


class Reader:
    """A model, and its figures."""

    def __init__(self, model: str) -> None:
        self.classifier = Classifier(model)
        try:
            self.sure = Classifier(model, max_error=MAX_ERROR)
        except OptionError:  # no threshold keeps this risk
            self.sure = None

    def accuracy(self, digits: Digits, labels: NDArray[np.integer], count: int) -> float:
        """Return the share of right labels among `count` pictures, of which `digits` were not refused."""
        return float((self.classifier.predict(digits) == labels).sum() / count)

    @cached_property
    def no_digits(self) -> float:
        """Share of the test digits whose verdict is "no digit"."""
        return float((self.classifier.compute(test().digits).verdicts == VERDICTS.index("no digit")).mean())

    def answered(self, pictures: Pictures) -> tuple[float, float]:
        """Return the share of pictures answered with "digit" at the stated risk, and the share of these that is right.

        NaN stands for a model that states no such risk, and for the right ones among none.
        """
        if self.sure is None:
            return np.nan, np.nan
        outputs = self.sure.compute(pictures.digits)
        is_sure = outputs.verdicts == VERDICTS.index("digit")
        right = (outputs.labels == pictures.labels)[is_sure]
        return is_sure.sum() / pictures.count, right.mean() if len(right) else np.nan


def read(drawings: Iterator[tuple[Image.Image, int]]) -> Pictures:
    """Read drawings and their labels through PNG, as the runtime reads a file."""
    digits, labels, count = [], [], 0
    for drawing, label in drawings:
        count += 1
        file = io.BytesIO()
        drawing.save(file, "PNG")
        try:
            digits.append(read_image(file.getvalue(), "the picture"))
        except DigitError:
            continue
        labels.append(label)
    return Pictures(np.array(digits), np.array(labels), count)


def uci() -> Pictures:
    """Read UCI's digits as dark-on-light pictures with a margin."""
    bunch = load_digits()
    return read((foreign_digit(image), int(label)) for image, label in zip(bunch.images, bunch.target, strict=True))


def letters(alphabet: str) -> Pictures:
    """Read letters of fonts that no model was trained on."""
    return read((letter(character, font), -1) for font in FONTS for character in alphabet)


def test() -> Pictures:
    """Return MNIST's test digits."""
    split = load_split("test")
    return Pictures(split.images.reshape(-1, 784), split.labels.astype(np.int64), len(split))


def rows(readers: list[Reader]) -> Iterator[Row]:
    strangers, tested = uci(), test()

    def accuracy(pictures: Pictures) -> tuple[float, ...]:
        return tuple(reader.accuracy(pictures.digits, pictures.labels, pictures.count) for reader in readers)

    yield Row("MNIST test, accuracy", accuracy(tested), 0.996)
    yield Row("UCI, accuracy", accuracy(strangers), 0.97)
    shares, right = zip(*(reader.answered(strangers) for reader in readers), strict=True)
    yield Row(f"UCI, answered at {MAX_ERROR:g}", shares, 0.7)
    yield Row("UCI, right among the answered", right, 0.995)
    for what, alphabet in (("letters", string.ascii_letters), ("letters unlike digits", LETTERS)):
        pictures = letters(alphabet)
        shares = tuple(reader.answered(pictures)[0] for reader in readers)
        yield Row(f"{what}, answered at {MAX_ERROR:g}", shares, 0.03, at_least=False)
    yield Row('MNIST test, called "no digit"', tuple(reader.no_digits for reader in readers), 0.015, at_least=False)
    kinds = []
    for corruption in CORRUPTIONS:
        digits = corrupted(tested.digits.reshape(-1, 28, 28), corruption).reshape(-1, 784)
        kinds.append(accuracy(Pictures(digits, tested.labels, len(digits))))
        yield Row(f"MNIST-C, {corruption.__name__.replace('_', ' ')}", kinds[-1])
    yield Row("MNIST-C, mean of fifteen", tuple(np.mean(kinds, axis=0).tolist()), 0.95)


def main() -> int:
    names = sys.argv[1:] or ["cnn", "linear"]
    readers = [Reader(name) for name in names]
    print(f"{'':51}" + "".join(f"{name:>11}" for name in names) + f"{'':8}  bound")
    kept = True
    for row in rows(readers):
        print(row, flush=True)
        kept &= row.kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
