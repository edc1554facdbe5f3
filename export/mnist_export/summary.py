"""The table of formats at the end of an export: size, speed, accuracy, certified labels and proof."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from mnist_runtime.digits import as_pixels
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.session import ENGINE_VERSION, raw_run

if TYPE_CHECKING:
    from mnist_export.bundle import Gated

Table: TypeAlias = tuple[list[str], list[list[str]]]
"""Heading and rows."""

NOTE = f"µs per digit: median of onnxruntime {ENGINE_VERSION}, one digit at a time on one thread"

_BUDGET = 0.2  # seconds of measurement per artifact, in which most networks run thousands of times
_FEWEST, _MOST = 20, 2000
"""Least and largest number of timed calls."""


def summarise(gated: Sequence["Gated"]) -> Table:
    """Return a row per artifact, in the order of `gated`; the speed is measured now, where onnxruntime runs it."""
    rows = []
    for artifact in gated:
        verdict = artifact.verdict
        validation = verdict.comparisons[-1]
        speed = f"{microseconds(artifact):,.1f}" if artifact.format.is_onnx else "-"
        certified = f"{validation.certified:,} of {validation.count:,}"
        size = f"{len(artifact.data):,}"
        rows.append([artifact.format.name, size, speed, f"{verdict.accuracy:.2%}", certified, verdict.proof.bound])
    return ["format", "bytes", "µs per digit", "accuracy", "certified labels", "proof"], rows


def microseconds(artifact: "Gated") -> float:
    """Return the median time in which onnxruntime answers one digit, on one thread."""
    loaded = Artifact.from_bytes(artifact.data, artifact.format.file)
    digit = loaded.golden.digits[:1]
    run, inputs = raw_run(loaded.session), {"pixels": digit if loaded.dtype == "uint8" else as_pixels(digit)}
    times: list[float] = []
    start = now = time.perf_counter()
    while len(times) < _FEWEST or (now - start < _BUDGET and len(times) < _MOST):
        run(["logits"], inputs, None)
        before, now = now, time.perf_counter()
        times.append(now - before)
    return 1e6 * statistics.median(times)


def to_text(table: Table) -> str:
    """Return a table aligned for a terminal, names to the left and numbers to the right."""
    heading, rows = table
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    names = (0, len(heading) - 1)
    aligned = [
        "  ".join(
            cell.ljust(width) if column in names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join(aligned)
