"""Resume records: the inputs and settings behind answers, by which a later run knows which answers are still valid.

A record is in the footer of each Parquet file of answers, in `_manifest.json`, and beside each .npy of answers.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from mnist_runtime.classifier import Classifier
    from mnist_runtime.digits import Orientation

SCHEMA = 2
"""Version of the layout of records."""


@dataclass(frozen=True)
class Shard:
    """One file of digits; a file that was replaced or rewritten compares unequal."""

    name: str
    """Path within the input's folder, with "/"."""
    size: int
    """Size in bytes."""
    mtime_ns: int
    """Time of the last modification, in nanoseconds since 1970; 0 where the filesystem has none."""
    ctime_ns: int = 0
    """Time of the last change of the inode, which `cp -p` and `touch` cannot set back; 0 beyond the local disk."""

    @classmethod
    def of_file(cls, name: str, path: str | os.PathLike[str]) -> Self:
        """Describe the file at `path`, on the local disk."""
        status = Path(path).stat()
        return cls(name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def output(self) -> str:
        """Name of the Parquet file of its answers within the output's folder."""
        return self.name if self.name.endswith(".parquet") else f"{self.name}.parquet"


@dataclass(frozen=True)
class Job:
    """Inputs and settings that all answers of a run share; an output never mixes answers of two jobs."""

    input: str
    """Folder of the shards, as `kind://path`."""
    models: list[str]
    """SHA-256 of each model file, in hex, sorted."""
    output: str
    """Kind of the answers: "labels" or "probabilities"."""
    max_error: float | None = None
    """Largest share of wrong labels among the digits, as in `Classifier`; None for the least that the model states."""
    invert: bool = False
    """True if black and white of arrays are exchanged."""
    transpose: bool = False
    """True if rows and columns of arrays are exchanged."""
    schema: int = SCHEMA
    """Version of the layout of records."""

    @classmethod
    def of(cls, folder: str, classifier: "Classifier", orientation: "Orientation", *, probabilities: bool) -> Self:
        """Describe a run of `classifier` over the shards of `folder`."""
        kind = "probabilities" if probabilities else "labels"
        return cls(folder, sorted(classifier.digests), kind, classifier.max_error, **asdict(orientation))

    def record(self, **details: Any) -> bytes:
        """Encode the job, and the `details` of one or all files of answers, as JSON."""
        return (json.dumps({**asdict(self), **details}, indent=1) + "\n").encode()

    @classmethod
    def of_record(cls, record: str | bytes) -> tuple[Self, dict[str, Any]]:
        """Decode a record into its job and the details.

        Raises:
            ValueError: the text is no record.
        """
        try:
            details = json.loads(record)
            job = cls(**{field.name: details.pop(field.name) for field in fields(cls)})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError("this is no record of mnist-score") from error
        return job, details


@dataclass(frozen=True)
class Part:
    """The I-th of N parts, of nearly equal size, of one .npy."""

    index: int = 1
    """Number of the part, 1 to `count`."""
    count: int = 1
    """Number of parts."""

    def rows(self, total: int) -> range:
        """Return the rows of this part, of `total`; the parts together hold each row once."""
        return range(total * (self.index - 1) // self.count, total * self.index // self.count)

    def path(self, output: Path) -> Path:
        """Return the part's own file: labels.npy becomes labels.2-of-8.npy, and stays labels.npy for 1 of 1."""
        if self.count == 1:
            return output
        return output.with_name(f"{output.stem}.{self.index}-of-{self.count}{output.suffix}")
