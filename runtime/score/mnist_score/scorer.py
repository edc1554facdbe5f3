"""The actor of Ray Data's pool: one classifier of one thread, and a shard of digits at a time."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_runtime.classifier import Classifier
from mnist_runtime.digits import CLASSES
from mnist_runtime.errors import DigitError, MnistRuntimeError
from mnist_score.job import Job
from mnist_score.rows import Rows, open_rows
from mnist_score.shards import Shard
from mnist_score.storage import Place, reason

ROW_GROUP = 2**16
"""Rows of a row group of the output: so many are held in memory, without their pixels, until they are written."""

_ANSWERS = [pa.field("label", pa.uint8(), nullable=False), pa.field("probability", pa.float32(), nullable=False)]
_TEN = [pa.field(f"probability_{label}", pa.float32(), nullable=False) for label in CLASSES]


@dataclass(frozen=True)
class Report:
    """How far a shard is."""

    shard: str
    """Its name."""
    rows: int = 0
    """Scored so far."""
    count: int = 0
    """All that it holds."""
    done: bool = False
    """Its answers stand under their name."""
    error: str = ""
    """Why it could not be scored; empty if it could."""


class Scorer:
    """Writes the answers to the shards of one input into one output's folder."""

    def __init__(self, classifier: Classifier, job: Job, folder: Place, output: Place, report_every: int) -> None:
        """Take the shards from `folder`, and report each time that many rows of one are done, and at its end."""
        self._classifier, self._job, self._folder, self._output = classifier, job, folder, output
        self._report_every = report_every

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Score one shard: what `map_batches(Scorer, batch_size=1)` calls, with columns of one row in and out."""
        shard = Shard(str(batch["name"][0]), int(batch["size"][0]), int(batch["mtime_ns"][0]))
        for report in self.score(shard):
            yield {key: [value] for key, value in asdict(report).items()}

    def score(self, shard: Shard) -> Iterator[Report]:
        """Write the answers to `shard`, and report; the last report is done or tells an error."""
        report = Report(shard.name)
        try:
            for report in self._score(shard):
                yield report
        except MnistRuntimeError as error:
            yield replace(report, error=str(error) if shard.name in str(error) else f"{shard.name}: {error}")
        except Exception as error:  # noqa: BLE001  # what a damaged file makes a parser raise must not stop the others
            sentence = f"{shard.name} cannot be scored ({reason(error)}); mend it, and the next run tries it again"
            yield replace(report, error=sentence)

    def _score(self, shard: Shard) -> Iterator[Report]:
        report = Report(shard.name)
        with open_rows(self._folder, shard.name) as rows:
            schema = self._schema(rows, shard)
            report = replace(report, count=rows.count)
            yield report
            with (
                self._output.writing(shard.output) as sink,
                pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
            ):
                for group in _groups(rows, self._answers, schema):
                    writer.write_table(group)
                    before, report = report.rows, replace(report, rows=report.rows + len(group))
                    if before // self._report_every != report.rows // self._report_every:
                        yield report
        yield replace(report, done=True)

    def _schema(self, rows: Rows, shard: Shard) -> pa.Schema:
        answers = [*_ANSWERS, *(_TEN if self._job.probabilities else [])]
        taken = [field.name for field in answers if field.name in rows.schema.names]
        if taken:
            raise DigitError(f"{shard.name} has a column {taken[0]} already, which the answer needs; rename it")
        return pa.schema([*rows.schema, *answers], self._job.metadata(shard))

    def _answers(self, pixels: NDArray[Any]) -> list[pa.Array]:
        logits, probabilities = self._classifier.logits_and_probabilities(pixels)
        labels = logits.argmax(axis=1)
        best = probabilities[np.arange(len(labels)), labels]
        ten = np.ascontiguousarray(probabilities.T) if self._job.probabilities else ()
        return [pa.array(column) for column in (labels.astype(np.uint8), best, *ten)]


def _groups(rows: Rows, answers: Callable[[NDArray[Any]], list[pa.Array]], schema: pa.Schema) -> Iterator[pa.Table]:
    """The output's rows, a row group at a time."""
    batches: list[pa.RecordBatch] = []
    for pixels, columns in rows.batches:
        batches.append(pa.record_batch([*columns, *answers(pixels)], schema=schema))
        if sum(map(len, batches)) >= ROW_GROUP:
            yield pa.Table.from_batches(batches)
            batches.clear()
    if batches:
        yield pa.Table.from_batches(batches)
