"""Predictions as people and programs read them: text, json, jsonl, csv."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TextIO

import numpy as np

from mnist_runtime.classifier import Prediction
from mnist_runtime.digits import CLASSES, LEVELS, Intensities, Pixels
from mnist_runtime.terminal import beside, draw_bars, draw_digit, has_colour


@dataclass(frozen=True, slots=True)
class Answer:
    """One digit of one input, and what was predicted."""

    source: str
    """The path as it was given; "-" for standard input."""
    index: int
    """Of the digit within its source, from 0."""
    digit: Intensities | Pixels
    """`(784,)`."""
    prediction: Prediction

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: source, index, label, probability, probabilities."""
        said = self.prediction
        return {
            "source": self.source,
            "index": self.index,
            "label": said.label,
            "probability": said.probability,
            "probabilities": list(said.probabilities),
        }


def write_text(answers: Iterable[Answer], out: TextIO) -> None:
    """Draw a digit that comes alone; give each of many a line: label, probability, source[index]."""
    answers = iter(answers)
    first = list(_take(answers, 2))
    if len(first) == 1:
        print(_drawing(first[0], colour=has_colour(out)), file=out)
        return
    for answer in chain(first, answers):
        said = answer.prediction
        print(f"{said.label}  {said.probability:7.2%}  {answer.source}[{answer.index}]", file=out)


def write_json(answers: Iterable[Answer], out: TextIO) -> None:
    """One JSON array of objects, an object a line."""
    separator = "[\n"
    for answer in answers:
        out.write(separator + json.dumps(answer.to_dict()))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def write_jsonl(answers: Iterable[Answer], out: TextIO) -> None:
    """One JSON object a line."""
    for answer in answers:
        print(json.dumps(answer.to_dict()), file=out)


def write_csv(answers: Iterable[Answer], out: TextIO) -> None:
    """A header, then a row a digit; the probabilities in columns probability_0 to probability_9."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["source", "index", "label", "probability", *(f"probability_{label}" for label in CLASSES)])
    for answer in answers:
        *start, probabilities = answer.to_dict().values()
        rows.writerow([*start, *probabilities])


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO], None]] = {
    "text": write_text,
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


def _take(answers: Iterator[Answer], count: int) -> Iterator[Answer]:
    return (answer for _, answer in zip(range(count), answers, strict=False))


def _drawing(answer: Answer, *, colour: bool) -> str:
    said = answer.prediction
    intensities = answer.digit
    if intensities.dtype != np.uint8:
        intensities = np.minimum(intensities * LEVELS, LEVELS - 1).astype(np.uint8)
    picture = draw_digit(intensities, colour=colour)  # type: ignore[arg-type]
    bars = draw_bars(said.probabilities, colour=colour)
    return f"{beside(picture, bars)}\n\n{answer.source}: {said.label} ({said.probability:.2%})"
