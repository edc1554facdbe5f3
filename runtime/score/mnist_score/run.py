"""One run of mnist-score on Ray: scores the shards that are missing in an output, then writes its manifest."""

import io
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mnist_runtime.classifier import Classifier
from mnist_runtime.console.command import note, print_error
from mnist_runtime.digits import UPRIGHT, Orientation
from mnist_runtime.errors import FileWriteError, OptionError, first_line
from mnist_score import ray_pool
from mnist_score.errors import ClusterError
from mnist_score.job import Job, Shard
from mnist_score.scorer import FOOTER_KEY, Report
from mnist_score.shards import list_shards
from mnist_score.storage import Place, is_temporary

MANIFEST = "_manifest.json"
"""Record of all shards in an output's folder, written last: where it exists, every shard is scored."""

_REQUESTS = 32  # footers read at the same time; on an object store, each is a request
_REPORT_ROWS = 2**18  # rows per report, times the number of scorers: the driver gets equally many reports per second
_MAX_REPORT_ROWS = 2**23  # rows per report at most, because Ray takes a long silence for a failure
_MAX_NAMED = 10  # shards without answers whose names are printed
_ELSEWHERE = "give another folder as OUTPUT, or clear this one"


@dataclass(frozen=True)
class Plan:
    """Work that a run has to do."""

    job: Job
    folder: Place
    """Folder of the shards."""
    output: Place
    """Folder of the answers."""
    scored: dict[Shard, int]
    """Number of rows of each shard that earlier runs have scored."""
    missing: list[Shard]
    """Shards that are not scored yet."""
    complete: bool
    """True if nothing is left to do, not even a manifest to write."""


def plan(
    classifier: Classifier, given: str, output: str, *, probabilities: bool, orientation: Orientation = UPRIGHT
) -> Plan:
    """Compare the shards of an input with the answers in an output.

    Answers to a shard that has changed, and files that killed runs have left unfinished, are removed.

    Raises:
        FileMissingError, FileReadError: the input cannot be listed.
        FileWriteError: the output holds files of another job, or cannot be written.
        OptionError: input and output overlap, or two shards would write the same file.
    """
    place, target = Place.at(given), Place.at(output)
    folder, shards = list_shards(place)
    if target.overlaps(place):
        raise OptionError(f"{target.path} and the input {place.path} overlap; keep them apart")
    job = Job.of(folder.name, classifier, orientation, probabilities=probabilities)
    found = target.files()
    outputs = _scored(job, target, found)
    expected = {shard.output: shard for shard in shards}
    if strangers := sorted(outputs.keys() - expected.keys()):
        raise FileWriteError(
            f"{target.file(strangers[0])} answers a shard that {place.path} does not hold; {_ELSEWHERE}"
        )
    scored = {shard: rows for name, (shard, rows) in outputs.items() if shard == expected[name]}
    missing = [shard for shard in shards if shard not in scored]
    changed = [shard.output for shard in missing if shard.output in outputs]
    if changed:
        note(f"Scoring again what has changed: {_count(len(changed), 'shard')}.")
    outdated = [MANIFEST] if missing and MANIFEST in found else []
    for name in [*outdated, *changed]:
        target.remove(name)
    _sweep(target, found)
    return Plan(job, folder, target, scored, missing, complete=not missing and MANIFEST in found)


def run(plan: Plan, classifier: Classifier, address: str | None, actors: int | None) -> bool:
    """Score the missing shards with `actors` scorers, by default one per CPU, on the Ray at `address` or a new one.

    Print progress, failures and a summary to stderr. If every shard is scored, write the manifest and return True.

    Raises:
        ClusterError: Ray cannot be started or joined, or gave up; the shards that are scored stay scored.
        FileWriteError: the output cannot be written, or another run has written there.
    """
    output, scored = plan.output, dict(plan.scored)
    if plan.complete:
        note(f"Nothing to do: {output.path} has all {_count(len(scored), 'shard')}.")
        return True
    if plan.missing:
        output.create()
        try:
            scored |= _score(plan, classifier, address, actors)
        finally:
            _sweep(output, output.files())  # after scorers that died
    total = len(plan.scored) + len(plan.missing)
    if failed := total - len(scored):
        note(f"{failed:,} of {_count(total, 'shard')} failed; the next run tries them again.")
        return False
    _scored(plan.job, output, output.files())  # raises if another run has written there meanwhile
    shards = [
        {**asdict(shard), "output": shard.output, "rows": rows}
        for shard, rows in sorted(scored.items(), key=lambda item: item[0].name)
    ]
    with output.writing(MANIFEST) as sink:
        sink.write(plan.job.record(rows=sum(scored.values()), shards=shards))
    note(f"Wrote {output.path}: {sum(scored.values()):,} digits of {_count(total, 'shard')}, and {MANIFEST}.")
    return True


def _score(plan: Plan, classifier: Classifier, address: str | None, actors: int | None) -> dict[Shard, int]:
    """Score the missing shards, and return the number of rows of each shard that was scored."""
    unanswered = {shard.name: shard for shard in plan.missing}
    scored: dict[Shard, int] = {}
    note(f"Joining the Ray at {address}." if address else "Starting Ray.")
    with ray_pool.joined(address, actors) as (cpus, name):
        count = min(actors or cpus, len(plan.missing))
        scorers = f"{_count(count, 'scorer')} on {name}"
        note(f"Scoring {_count(len(plan.missing), 'shard')} with {scorers}.")
        report_every = min(_REPORT_ROWS * count, _MAX_REPORT_ROWS)
        scorer = (classifier, plan.job, plan.folder, plan.output, report_every)
        failure: ClusterError | None = None
        with _Progress(plan.missing) as progress:
            try:
                for report in ray_pool.score(plan.missing, scorer, count):
                    progress.add(report)
                    if report.error:
                        del unanswered[report.shard]
                    elif report.done:
                        scored[unanswered.pop(report.shard)] = report.rows
            except ClusterError as error:
                failure = error
        rate = progress.digits / progress.seconds if progress.seconds else 0
        note(f"Scored {progress.digits:,} digits in {progress.seconds:,.1f} s, {rate:,.0f} per second, with {scorers}.")
        _report_unanswered(list(unanswered), "" if failure else ", because its scorer died each time")
        if failure:
            raise failure
    return scored


class _Progress(tqdm):  # type: ignore[type-arg]  # tqdm is generic in its stubs alone
    """Bar of the bytes read, on stderr: redrawn on a terminal, a line every ten seconds elsewhere.

    Bytes, because the number of digits is known only once every shard has been opened.
    """

    def __init__(self, shards: list[Shard]) -> None:
        """Expect reports of `shards`; the first report starts the clock."""
        self.digits = 0
        """Number of digits scored."""
        self.seconds = 0.0
        """Time from the first report to the last."""
        self._begun: float | None = None
        self._sizes = {shard.name: shard.size for shard in shards}
        self._latest: dict[str, Report] = {}
        self._ended = 0
        is_terminal = sys.stderr.isatty()
        super().__init__(
            total=sum(self._sizes.values()),
            unit="B",
            unit_scale=True,
            miniters=1,
            mininterval=0.1 if is_terminal else 10,
            leave=is_terminal,
            file=sys.stderr if is_terminal else _Lines(),
        )

    def add(self, report: Report) -> None:
        """Count a report, and print its error."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
            self.reset()
        self.seconds = now - self._begun
        before = self._latest.get(report.shard, Report(report.shard))  # has more rows if a scorer has died
        self._latest[report.shard] = report
        self.digits += report.rows - before.rows
        self._ended += report.ended
        shards = f"{self._ended:,} of {_count(len(self._sizes), 'shard')}"
        self.set_postfix_str(f"{self.digits:,} digits, {shards}", refresh=False)
        self.update(self._sizes[report.shard] * (report.share - before.share))
        if report.error:
            with self.external_write_mode(sys.stderr):
                print_error(report.error)


class _Lines(io.StringIO):
    """Stream that prints each redrawing of a bar as a line on stderr."""

    def write(self, text: str) -> int:
        """Print `text` unless it is blank, which erases a bar."""
        if text.strip():
            note(text.strip())
        return len(text)


def _report_unanswered(names: list[str], why: str) -> None:
    for name in names[:_MAX_NAMED]:
        print_error(f"{name} has no answers{why}; see Ray's logs")
    if (more := len(names) - _MAX_NAMED) > 0:
        print_error(f"{_count(more, 'more shard')} {'has' if more == 1 else 'have'} no answers")


def _scored(job: Job, output: Place, names: Iterable[str]) -> dict[str, tuple[Shard, int]]:
    """Return the shard and the number of rows of each Parquet file in a folder, each of which must be of `job`."""
    names = [name for name in names if name.endswith(".parquet")]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(names, pool.map(lambda name: _read_footer(job, output, name), names), strict=True))


def _read_footer(job: Job, output: Place, name: str) -> tuple[Shard, int]:
    """Return the shard and the number of rows of one file of answers, which must be of `job`."""
    try:
        with output.open(name) as file, pq.ParquetFile(file) as parquet:
            found, details = Job.of_record(parquet.metadata.metadata[FOOTER_KEY])
            shard, rows = Shard(**details["shard"]), parquet.metadata.num_rows
    except (LookupError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        sentence = f"{output.file(name)} cannot be read as answers of mnist-score ({first_line(error)})"
        raise FileWriteError(f"{sentence}; run again, or give another folder as OUTPUT") from error
    for field in fields(job):
        if (was := getattr(found, field.name)) != (wanted := getattr(job, field.name)):
            raise FileWriteError(
                f"{output.file(name)} is from another run, whose {field.name} was {was} and not {wanted}; {_ELSEWHERE}"
            )
    return shard, rows


def _sweep(output: Place, names: Iterable[str]) -> None:
    """Remove the files that killed scorers have left unfinished."""
    for name in filter(is_temporary, names):
        output.remove(name)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
