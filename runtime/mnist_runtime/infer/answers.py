"""Answers of mnist-infer: recognise the digits of its inputs, print them, or compare them with labels."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np

from mnist_runtime.classifier import Classifier
from mnist_runtime.console.command import print_error
from mnist_runtime.console.drawing import has_colour
from mnist_runtime.errors import DigitError, MnistRuntimeError
from mnist_runtime.infer.inputs import Reading, chunks, expand
from mnist_runtime.infer.records import WRITERS, Answer, Detail, drawing

if TYPE_CHECKING:
    from mnist_runtime.infer.accuracy import Confusion

T = TypeVar("T")


@dataclass
class Answers:
    """Answers to every digit of every path; an input that fails is reported, and the next one is read."""

    classifier: Classifier
    paths: Iterable[str]
    reading: Reading
    failed: list[str] = field(default_factory=list)
    """Paths that have failed so far."""

    def __iter__(self) -> Iterator[Answer]:
        for path in self.paths:
            for file in self._guarded(expand(path, recursive=self.reading.recursive), path):
                yield from self._guarded(self._of_file(file), file)

    def _of_file(self, file: str) -> Iterator[Answer]:
        for name, start, digits in chunks(file, self.reading):
            for offset, prediction in enumerate(self.classifier.compute(digits).predictions()):
                yield Answer(name, start + offset, digits[offset], prediction)

    def _guarded(self, items: Iterator[T], path: str) -> Iterator[T]:
        """Pass items through; one of our errors ends them with one line on stderr."""
        try:
            yield from items
        except MnistRuntimeError as error:
            is_named = str(error).startswith((f"{path} ", f"{path}:", f"{path}{os.sep}", repr(path), "standard input"))
            print_error(str(error) if is_named else f"{path}: {error}")
            self.failed.append(path)


def print_answers(answers: Iterable[Answer], format_: str, detail: Detail, *, show: bool) -> None:
    """Write answers to standard output in one of `WRITERS`' formats, or draw each one."""
    if not show:
        WRITERS[format_](answers, sys.stdout, detail)
        return
    for answer in answers:
        click.echo(drawing(answer, colour=has_colour(sys.stdout)) + "\n")


def evaluate(answers: Answers, labels: Path) -> "Confusion":
    """Compare answers with true labels, which are in the same order.

    Raises:
        DigitError: the counts differ, or an input failed, so that digits and labels cannot be matched.
    """
    from mnist_runtime.infer.accuracy import Confusion
    from mnist_runtime.io.labels import read_labels

    confusion = Confusion(read_labels(labels))
    has_verdicts = "thresholds" in answers.classifier.artifact.metadata
    for answer in answers:
        if not answers.failed:
            is_digit = np.array([answer.prediction.verdict == "digit"]) if has_verdicts else None
            confusion.add(np.array([answer.prediction.label]), is_digit)
    if count := len(answers.failed):
        inputs = "1 input" if count == 1 else f"{count:,} inputs"
        raise DigitError(f"{inputs} failed, so the labels cannot be matched; give only inputs that can be read")
    confusion.check_complete()
    return confusion
