"""What the outputs say of themselves: in each file's footer what it was made of, and in _manifest.json all of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mnist_runtime.errors import FileWriteError
from mnist_score.shards import Shard
from mnist_score.storage import Place

MANIFEST = "_manifest.json"
"""Of an output's folder, written last: where it stands, every shard is done."""

SCHEMA = 1
"""Version of the layout of records and manifest."""

_KEY = b"mnist_score"
_ELSEWHERE = "give another folder for OUTPUT, or clear this one"


@dataclass(frozen=True)
class Job:
    """What all files of an output's folder have in common."""

    input: str
    """The place that the shards are from."""
    models: list[str]
    """SHA-256 of each model file, in hex, sorted."""
    probabilities: bool
    """Whether all ten are told."""

    def metadata(self, shard: Shard) -> dict[bytes, bytes]:
        """What the footer of the answers to `shard` says."""
        return {_KEY: json.dumps({**self._common(), "shard": asdict(shard)}).encode()}

    def manifest(self, scored: Mapping[Shard, int]) -> bytes:
        """The document that tells of all shards and their rows."""
        shards = [
            {**asdict(shard), "output": shard.output, "rows": rows}
            for shard, rows in sorted(scored.items(), key=lambda item: item[0].name)
        ]
        document = {**self._common(), "rows": sum(scored.values()), "shards": shards}
        return (json.dumps(document, indent=1) + "\n").encode()

    def scored(self, folder: Place, name: str) -> tuple[Shard, int]:
        """Tell which shard the file `name` of an output is of, and its rows.

        Raises:
            FileWriteError: it is of another job, or not ours at all.
        """
        record, shard, rows = _read(folder, name)
        for what, wanted in self._common().items():
            if (found := record.get(what)) != wanted:
                raise FileWriteError(
                    f"{folder.file(name)} is of another run, whose {what} was {found} and not {wanted}; {_ELSEWHERE}"
                )
        return shard, rows

    def _common(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}


def _read(folder: Place, name: str) -> tuple[dict[str, Any], Shard, int]:
    """The record in a file's footer, the shard that it names, and the file's rows."""
    try:
        with folder.open(name) as file, pq.ParquetFile(file) as parquet:
            record = json.loads(parquet.metadata.metadata[_KEY])
            return record, Shard(**record["shard"]), parquet.metadata.num_rows
    except (LookupError, TypeError, ValueError, OSError, RecursionError, pa.ArrowException) as error:
        raise FileWriteError(f"{folder.file(name)} is none of this command's; {_ELSEWHERE}") from error
