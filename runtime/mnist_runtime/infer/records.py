"""Formats of the predictions: text for people; json, jsonl and csv for programs."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TextIO

from mnist_runtime.classifier import Prediction
from mnist_runtime.console.drawing import beside, draw_bars, draw_digit, has_colour
from mnist_runtime.digits import CLASSES, Intensities, Pixels, as_intensities
from mnist_runtime.errors import printable
from mnist_runtime.verdicts import Verdict

RECORD_SCHEMA = 2
"""Version of the records, described by `schema/prediction.schema.json` in this package."""


@dataclass(frozen=True, slots=True)
class Detail:
    """Details printed besides the label and its probability."""

    top: int = 1
    """Number of the most probable classes, if more than one."""
    probabilities: bool = False
    """True to print all ten probabilities in text; records always hold them."""


_COLOURS: dict[Verdict, int] = {"digit": 32, "unsure": 33, "no digit": 31}
"""ANSI colours: green, yellow and red."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One digit of an input, and its prediction."""

    source: str
    """Path as given; "-" for standard input."""
    index: int
    """Index of the digit within its source, from 0."""
    digit: Intensities | Pixels
    """Digit, uint8 or float32 `(784,)`."""
    prediction: Prediction

    def to_dict(self, detail: Detail) -> dict[str, Any]:
        """Return a JSON-serialisable dict with the fields of `RECORD_SCHEMA`; `top` only if asked for."""
        record: dict[str, Any] = {"schema": RECORD_SCHEMA, "source": self.source, "index": self.index}
        record |= self.prediction.to_dict()
        if detail.top > 1:
            record["top"] = [{"label": label, "probability": p} for label, p in self.prediction.top(detail.top)]
        return record


def write_text(answers: Iterable[Answer], out: TextIO, detail: Detail) -> None:
    """Draw a lone digit; print one line per digit of many: label, probability, details, source[index], verdict.

    The verdict "digit" is not printed.
    """
    answers = iter(answers)
    first = list(islice(answers, 2))
    if len(first) == 1:
        print(drawing(first[0], colour=has_colour(out)), file=out)
        return
    colour = has_colour(out)
    for answer in chain(first, answers):
        prediction = answer.prediction
        cells = [f"{label}  {probability:7.2%}" for label, probability in prediction.top(detail.top)]
        if detail.probabilities:
            cells += [f"{probability:.4f}" for probability in prediction.probabilities]
        cells.append(f"{printable(answer.source)}[{answer.index}]")
        if prediction.verdict != "digit":
            cells.append(_paint(prediction, prediction.verdict) if colour else prediction.verdict)
        print(*cells, sep="  ", file=out)


def write_json(answers: Iterable[Answer], out: TextIO, detail: Detail) -> None:
    """Write one JSON array, one object per line."""
    separator = "[\n"
    for answer in answers:
        out.write(separator + json.dumps(answer.to_dict(detail)))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def write_jsonl(answers: Iterable[Answer], out: TextIO, detail: Detail) -> None:
    """Write one JSON object per line."""
    for answer in answers:
        print(json.dumps(answer.to_dict(detail)), file=out)


def write_csv(answers: Iterable[Answer], out: TextIO, detail: Detail) -> None:
    """Write a header, then one row per digit: the record of `RECORD_SCHEMA`, with its lists in columns.

    The k-th best class is in topk_label and topk_probability, from the second on; all ten probabilities are in
    probability_0 to probability_9.
    """
    import csv

    rows = csv.writer(out, lineterminator="\n")
    ranks = range(2, detail.top + 1)
    rows.writerow(
        [
            *("schema", "source", "index", "verdict", "label", "probability", "no_digit"),
            *(name for rank in ranks for name in (f"top{rank}_label", f"top{rank}_probability")),
            *(f"probability_{label}" for label in CLASSES),
        ]
    )
    for answer in answers:
        prediction = answer.prediction
        rows.writerow(
            [
                *(RECORD_SCHEMA, answer.source, answer.index, prediction.verdict),
                *(prediction.label, prediction.probability, prediction.no_digit),
                *(value for pair in prediction.top(detail.top)[1:] for value in pair),
                *prediction.probabilities,
            ]
        )


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO, Detail], None]] = {
    "text": write_text,
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


def drawing(answer: Answer, *, colour: bool) -> str:
    """Draw the digit as the model saw it, beside one bar per class, above the verdict in words."""
    prediction = answer.prediction
    picture = draw_digit(as_intensities(answer.digit), colour=colour)
    bars = draw_bars(prediction.probabilities, colour=colour)
    words = _paint(prediction, _in_words(prediction)) if colour else _in_words(prediction)
    return f"{beside(picture, bars)}\n\n{printable(answer.source)}: {words}"


def _in_words(prediction: Prediction) -> str:
    label = f"{prediction.label} ({prediction.probability:.2%})"
    match prediction.verdict:
        case "digit":
            return label
        case "unsure":
            return f"I am not sure; perhaps {label}"
        case "no digit":
            return f"that is no digit ({prediction.no_digit:.2%})"


def _paint(prediction: Prediction, text: str) -> str:
    return f"\x1b[{_COLOURS[prediction.verdict]}m{text}\x1b[0m"
