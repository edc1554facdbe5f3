"""Predictions as people and programs read them: text, json, jsonl, csv."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TextIO

import numpy as np

from mnist_runtime.classifier import Prediction
from mnist_runtime.console.drawing import beside, draw_bars, draw_digit, has_colour
from mnist_runtime.digits import CLASSES, LEVELS, Intensities, Pixels

SCHEMA = 1
"""Version of the records, which `schema/prediction.schema.json` in this package describes; grows when they change."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What is told of a prediction besides its label and probability."""

    top: int = 1
    """The k most probable classes, if more than one."""
    probabilities: bool = False
    """Those of all ten classes, also in text; records always hold them."""


DEFAULT = Detail()


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

    def to_dict(self, detail: Detail) -> dict[str, Any]:
        """As JSON holds it, see `SCHEMA`: schema, source, index, label, probability, probabilities; top if asked."""
        said = self.prediction
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "source": self.source,
            "index": self.index,
            "label": said.label,
            "probability": said.probability,
            "probabilities": list(said.probabilities),
        }
        if detail.top > 1:
            record["top"] = [{"label": label, "probability": p} for label, p in said.top(detail.top)]
        return record


def write_text(answers: Iterable[Answer], out: TextIO, detail: Detail = DEFAULT) -> None:
    """Draw a digit that comes alone; give each of many a line: label, probability, more if asked, source[index]."""
    answers = iter(answers)
    first = list(_take(answers, 2))
    if len(first) == 1:
        print(drawing(first[0], colour=has_colour(out)), file=out)
        return
    for answer in chain(first, answers):
        said = answer.prediction
        ranked = "  ".join(f"{label}  {probability:7.2%}" for label, probability in said.top(detail.top))
        every = "".join(f"  {probability:.4f}" for probability in said.probabilities) if detail.probabilities else ""
        print(f"{ranked}{every}  {answer.source}[{answer.index}]", file=out)


def write_json(answers: Iterable[Answer], out: TextIO, detail: Detail = DEFAULT) -> None:
    """One JSON array of objects, an object a line."""
    separator = "[\n"
    for answer in answers:
        out.write(separator + json.dumps(answer.to_dict(detail)))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def write_jsonl(answers: Iterable[Answer], out: TextIO, detail: Detail = DEFAULT) -> None:
    """One JSON object a line."""
    for answer in answers:
        print(json.dumps(answer.to_dict(detail)), file=out)


def write_csv(answers: Iterable[Answer], out: TextIO, detail: Detail = DEFAULT) -> None:
    """A header, then a row a digit: the record of `SCHEMA`, its lists spread over columns.

    The k-th best class is in topk_label and topk_probability, from the second on; all ten probabilities are in
    probability_0 to probability_9.
    """
    rows = csv.writer(out, lineterminator="\n")
    ranks = range(2, detail.top + 1)
    rows.writerow(
        [
            *("schema", "source", "index", "label", "probability"),
            *(name for rank in ranks for name in (f"top{rank}_label", f"top{rank}_probability")),
            *(f"probability_{label}" for label in CLASSES),
        ]
    )
    for answer in answers:
        said = answer.prediction
        rows.writerow(
            [
                *(SCHEMA, answer.source, answer.index, said.label, said.probability),
                *(value for pair in said.top(detail.top)[1:] for value in pair),
                *said.probabilities,
            ]
        )


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO, Detail], None]] = {
    "text": write_text,
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


def _take(answers: Iterator[Answer], count: int) -> Iterator[Answer]:
    return (answer for _, answer in zip(range(count), answers, strict=False))


def drawing(answer: Answer, *, colour: bool) -> str:
    """What the model saw and what it said of it: the digit, a bar for each class, and the label."""
    said = answer.prediction
    intensities = answer.digit
    if intensities.dtype != np.uint8:
        intensities = np.minimum(intensities * LEVELS, LEVELS - 1).astype(np.uint8)
    picture = draw_digit(intensities, colour=colour)  # type: ignore[arg-type]
    bars = draw_bars(said.probabilities, colour=colour)
    return f"{beside(picture, bars)}\n\n{answer.source}: {said.label} ({said.probability:.2%})"
