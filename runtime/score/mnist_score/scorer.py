"""The actor of Ray Data's pool: one classifier with one thread, and one shard of digits at a time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_runtime.classifier import Classifier
from mnist_runtime.digits import CLASSES, Intensities, Orientation, Pixels
from mnist_runtime.errors import DigitError, MnistRuntimeError, first_line
from mnist_runtime.verdicts import VERDICTS
from mnist_score.job import Job, Shard
from mnist_score.rows import Rows, open_rows
from mnist_score.storage import Place

FOOTER_KEY = b"mnist_score"
"""Key of the resume record in the metadata of an output's schema."""

ROW_GROUP = 2**16
"""Rows per row group of the output, which are in memory, without their pixels, until they are written."""

_VERDICT = pa.dictionary(pa.int8(), pa.string())

_ANSWERS = [
    pa.field("label", pa.uint8(), nullable=False),
    pa.field("probability", pa.float32(), nullable=False),
    pa.field("verdict", _VERDICT, nullable=False),
]
_PROBABILITIES = ["no_digit", *(f"probability_{label}" for label in CLASSES)]
"""Further columns of a job that writes probabilities."""


@dataclass(frozen=True)
class Report:
    """Progress of one shard."""

    shard: str
    """Name of the shard."""
    rows: int = 0
    """Rows scored so far."""
    count: int = 0
    """Rows of the shard."""
    done: bool = False
    """True if the answers are complete, under their final name."""
    error: str = ""
    """Sentence that says why the shard cannot be scored; empty if it can."""

    @property
    def ended(self) -> bool:
        """Return True if this is the last report of the shard."""
        return self.done or bool(self.error)

    @property
    def share(self) -> float:
        """Share of the shard that is read, 0 to 1; 1 for a shard that failed."""
        return 1.0 if self.ended else self.rows / max(self.count, 1)


class Scorer:
    """Writer of the answers to shards of one folder into another."""

    def __init__(self, classifier: Classifier, job: Job, folder: Place, output: Place, report_every: int) -> None:
        """Read shards from `folder`, write into `output`, and report every `report_every` rows and at the end."""
        self._classifier, self._job, self._folder, self._output = classifier, job, folder, output
        self._report_every = report_every

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Score one shard, as called by `map_batches(Scorer, batch_size=1)`: takes and yields columns of one row."""
        shard = Shard(str(batch["name"][0]), *(int(batch[key][0]) for key in ("size", "mtime_ns", "ctime_ns")))
        for report in self.score(shard):
            yield {key: [value] for key, value in asdict(report).items()}

    def score(self, shard: Shard) -> Iterator[Report]:
        """Write the answers to `shard`, and yield reports; only the last one has `ended`."""
        report = Report(shard.name)
        try:
            for report in self._score(shard):
                yield report
        except MnistRuntimeError as error:
            yield replace(report, error=str(error) if shard.name in str(error) else f"{shard.name}: {error}")
        except Exception as error:  # noqa: BLE001  # parsers raise anything; one damaged file must not stop the others
            sentence = f"{shard.name} cannot be scored ({first_line(error)}); fix it, and the next run tries it again"
            yield replace(report, error=sentence)

    def _score(self, shard: Shard) -> Iterator[Report]:
        with open_rows(self._folder, shard.name, Orientation(self._job.invert, self._job.transpose)) as rows:
            schema = self._schema(rows, shard)
            report = Report(shard.name, count=rows.count)
            yield report
            with (
                self._output.writing(shard.output) as sink,
                pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
            ):
                for group in self._groups(rows, schema):
                    writer.write_table(group)
                    before, report = report.rows, replace(report, rows=report.rows + len(group))
                    if before // self._report_every != report.rows // self._report_every:
                        yield report
        yield replace(report, done=True)

    def _schema(self, rows: Rows, shard: Shard) -> pa.Schema:
        further = _PROBABILITIES if self._job.output == "probabilities" else []
        answers = [*_ANSWERS, *(pa.field(name, pa.float32(), nullable=False) for name in further)]
        if taken := [field.name for field in answers if field.name in rows.schema.names]:
            raise DigitError(f"{shard.name} has a column {taken[0]}, which is for the answers; rename it")
        return pa.schema([*rows.schema, *answers], {FOOTER_KEY: self._job.record(shard=asdict(shard))})

    def _groups(self, rows: Rows, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows of the output, one row group at a time."""
        batches: list[pa.RecordBatch] = []
        for pixels, columns in rows.batches:
            batches.append(pa.record_batch([*columns, *self._answers(pixels)], schema=schema))
            if sum(map(len, batches)) >= ROW_GROUP:
                yield pa.Table.from_batches(batches)
                batches.clear()
        if batches:
            yield pa.Table.from_batches(batches)

    def _answers(self, digits: Intensities | Pixels) -> list[pa.Array]:
        computed = self._classifier.compute(digits)
        labels = computed.labels
        best = computed.probabilities[np.arange(len(labels)), labels]
        verdicts = pa.DictionaryArray.from_arrays(computed.verdicts.astype(np.int8), list(VERDICTS))
        columns = [pa.array(labels.astype(np.uint8)), pa.array(best), verdicts]
        if self._job.output == "probabilities":
            columns += map(pa.array, (computed.no_digit, *np.ascontiguousarray(computed.probabilities.T)))
        return columns
