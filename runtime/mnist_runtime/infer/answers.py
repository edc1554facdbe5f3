"""What mnist-infer does once its command line is understood."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from mnist_runtime.classifier import Classifier
from mnist_runtime.console.command import complain
from mnist_runtime.console.drawing import has_colour
from mnist_runtime.errors import DigitError, MnistRuntimeError
from mnist_runtime.infer.inputs import chunks, expand
from mnist_runtime.infer.records import WRITERS, Answer, Detail, drawing

if TYPE_CHECKING:
    from mnist_runtime.infer.accuracy import Confusion


@dataclass(frozen=True)
class Answers:
    """Answers as they come."""

    stream: Iterator[Answer]
    failed: list[str]
    """Paths that have failed so far."""

    def __iter__(self) -> Iterator[Answer]:
        return self.stream


def answer(classifier: Classifier, paths: Iterable[str], failed: list[str], *, recursive: bool) -> Answers:
    """Answer every digit of every path; complain of what fails, note it in `failed`, and go on with the next."""

    def stream() -> Iterator[Answer]:
        for path in paths:
            for file in _guarded(expand(path, recursive=recursive), path, failed):
                yield from _guarded(_answers_of(classifier, file), file, failed)

    return Answers(stream(), failed)


def print_answers(answers: Iterable[Answer], form: str, detail: Detail, *, show: bool) -> None:
    """Write answers to standard output in one of `WRITERS`' formats, or draw each one."""
    if not show:
        WRITERS[form](answers, sys.stdout, detail)
        return
    for said in answers:
        click.echo(drawing(said, colour=has_colour(sys.stdout)) + "\n")


def evaluate(answers: Answers, labels: Path) -> "Confusion":
    """Hold answers against true labels, in their order.

    Raises:
        DigitError: there are not as many as labels, or an input failed, so that nobody knows whose labels are whose.
    """
    from mnist_runtime.infer.accuracy import Confusion, read_labels

    confusion = Confusion(read_labels(labels))
    for said in answers:
        if not answers.failed:
            confusion.add(np.array([said.prediction.label]))
    if count := len(answers.failed):
        inputs = "1 input" if count == 1 else f"{count:,} inputs"
        raise DigitError(f"{inputs} failed, so the labels cannot be matched; give only inputs that can be read")
    confusion.check_complete()
    return confusion


def _answers_of(classifier: Classifier, file: str) -> Iterator[Answer]:
    for name, start, digits in chunks(file):
        for offset, prediction in enumerate(classifier.compute(digits).predictions()):
            yield Answer(name, start + offset, digits[offset], prediction)


def _guarded(items: Iterator[Any], path: str, failed: list[str]) -> Iterator[Any]:
    """Pass on what comes; an error of ours ends it with one line on stderr."""
    try:
        yield from items
    except MnistRuntimeError as error:
        complain(str(error) if str(error).startswith((path, repr(path))) else f"{path}: {error}")
        failed.append(path)
