"""What mnist-infer does once its command line is understood."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from mnist_runtime.classifier import Classifier
from mnist_runtime.console.command import complain
from mnist_runtime.console.drawing import has_colour
from mnist_runtime.digits import as_digits
from mnist_runtime.errors import DigitError, FileWriteError, MnistRuntimeError
from mnist_runtime.infer.inputs import chunks, expand
from mnist_runtime.infer.records import WRITERS, Answer, Detail, drawing
from mnist_runtime.model.artifact import BUNDLED

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


def score_file(
    classifier: Classifier,
    paths: tuple[str, ...],
    output: Path,
    shard: tuple[int, int],
    labels: Path | None,
    model: Path | None,
    *,
    probabilities: bool,
) -> None:
    """Score one .npy into `output`, or a part of it into the part's own file, and tell what is written.

    Raises:
        FileWriteError: that would overwrite the digits, their labels or the model, or cannot be done.
        MnistRuntimeError: the digits or their labels cannot be used.
    """
    from mnist_runtime.infer.accuracy import Confusion, read_labels
    from mnist_runtime.infer.scoring import Shard, labels_of, score, side_files
    from mnist_runtime.io.npy import NpyFile

    if len(paths) != 1 or paths[0] == "-":
        raise DigitError("--output takes exactly one .npy file of digits; stack several with np.concatenate")
    digits = NpyFile.open(paths[0])
    truth = None if labels is None else read_labels(labels)
    if truth is not None and len(truth) != len(digits):
        raise DigitError(f"there are {len(digits):,} digits and {len(truth):,} labels; give one label a digit")
    part = Shard(*shard)
    rows, target = part.rows(len(digits)), part.name(output)
    for source in (digits.path, *([labels] if labels else []), *_files_of(model)):
        if any(_same_file(source, written) for written in (target, *side_files(target))):
            raise FileWriteError(f"{source} is an input and would be overwritten; give --output another name")
    with _progress(len(rows), target.name) as bar:
        fresh = score(classifier, digits, target, rows, probabilities=probabilities, advance=bar)
    click.echo(f"{'Wrote' if fresh else 'Nothing to do: there already is'} {target}  ({len(rows):,} digits)", err=True)
    if truth is not None:
        confusion = Confusion(truth[rows.start : rows.stop])
        confusion.add(labels_of(target))
        click.echo(confusion.report())


def _files_of(model: Path | None) -> list[Path]:
    """The files that a model is read from: of a published folder, all that its manifest lists."""
    if model is None:
        return list(BUNDLED.parent.iterdir())
    if not model.is_dir():
        return [model]
    from mnist_runtime.model.manifest import NAME, read_manifest

    return [model / file for file in (NAME, *read_manifest(model).files)]


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return False


def _answers_of(classifier: Classifier, file: str) -> Iterator[Answer]:
    for name, start, chunk in chunks(file):
        digits = as_digits(chunk)
        for offset, prediction in enumerate(classifier.predictions(digits)):
            yield Answer(name, start + offset, digits[offset], prediction)


def _guarded(items: Iterator[Any], path: str, failed: list[str]) -> Iterator[Any]:
    """Pass on what comes; an error of ours ends it with one line on stderr."""
    try:
        yield from items
    except MnistRuntimeError as error:
        complain(str(error) if str(error).startswith((path, repr(path))) else f"{path}: {error}")
        failed.append(path)


def _progress(total: int, title: str) -> AbstractContextManager[Callable[[int], object]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return nullcontext(lambda _: None)
    return _Bar(total, title)


class _Bar:
    def __init__(self, total: int, title: str) -> None:
        self._bar = click.progressbar(length=total, label=title, file=sys.stderr, show_pos=True)

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.__enter__().update

    def __exit__(self, *exception: Any) -> None:
        self._bar.__exit__(*exception)
