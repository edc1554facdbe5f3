"""One run of mnist-score: what is missing in an output is scored, and once nothing is, its manifest written."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click

from mnist_runtime.classifier import Classifier
from mnist_runtime.errors import ClusterError, FileWriteError, OptionError
from mnist_score import ray_pool
from mnist_score.job import MANIFEST, Job
from mnist_score.progress import Display
from mnist_score.shards import Shard, list_shards
from mnist_score.storage import Place, is_temporary

_REQUESTS = 32  # footers read at a time: on an object store each takes the time of a request
_REPORT_ROWS = 2**18  # between two reports, times the scorers: the driver hears as much of many as of few
_MOST_ROWS = 2**23  # between two reports however many there are: Ray takes long silence for a failure
_NAMED = 10  # shards without an answer


@dataclass(frozen=True)
class Plan:
    """What a run has to do."""

    job: Job
    folder: Place
    """Of the shards."""
    output: Place
    scored: dict[Shard, int]
    """Shards that earlier runs have scored, and their rows."""
    missing: list[Shard]
    """The others."""
    complete: bool
    """There is nothing to do, not even a manifest to write."""


def plan(classifier: Classifier, given: str, output: str, *, probabilities: bool) -> Plan:
    """Hold the shards of the input against what the output has; remove what killed runs have left there.

    What was said of a shard that has changed since is removed too.

    Raises:
        FileMissingError, FileReadError: the input cannot be listed.
        FileWriteError: the output holds what is not of this job, or cannot be written.
        OptionError: the one lies in the other, or two shards would write the same file.
    """
    place, target = Place.at(given), Place.at(output)
    folder, shards = list_shards(place)
    if target.overlaps(place):
        raise OptionError(f"{target.path} and the input {place.path} lie in one another; keep them apart")
    job = Job(place.name, sorted(classifier.digests), probabilities)
    found = target.files()
    outputs = _scored(job, target, found)
    wanted = {shard.output: shard for shard in shards}
    if strangers := sorted(outputs.keys() - wanted.keys()):
        raise FileWriteError(f"{target.file(strangers[0])} is of a shard that {place.path} does not hold; remove it")
    scored = {shard: rows for name, (shard, rows) in outputs.items() if shard == wanted[name]}
    missing = [shard for shard in shards if shard not in scored]
    changed = [shard.output for shard in missing if shard.output in outputs]
    if changed:
        click.echo(f"Scoring again what has changed since: {_shards(len(changed))}.", err=True)
    outdated = [MANIFEST] if missing and MANIFEST in found else []
    for name in [*outdated, *changed]:
        target.remove(name)
    _sweep(target, found)
    return Plan(job, folder, target, scored, missing, complete=not missing and MANIFEST in found)


def run(plan: Plan, classifier: Classifier, address: str | None, actors: int | None) -> bool:
    """Score what is missing with `actors` scorers, by default one a CPU, on the Ray at `address` or one of its own.

    Tells on stderr how far it is, what failed, and how it ends. The manifest is written once every shard is scored.

    Returns:
        Whether every shard is scored.

    Raises:
        ClusterError: Ray cannot be had or has given up; what is scored stays so.
        FileWriteError: the output's folder or the manifest cannot be written, or another run has written there.
    """
    output, scored = plan.output, dict(plan.scored)
    if plan.complete:
        click.echo(f"Nothing to do: {output.path} has all {_shards(len(scored))}.", err=True)
        return True
    if plan.missing:
        output.create()
        try:
            scored |= _score(plan, classifier, address, actors)
        finally:
            _sweep(output, output.files())  # after scorers that died
    total = len(plan.scored) + len(plan.missing)
    if len(scored) < total:
        failed = total - len(scored)
        click.echo(f"{failed:,} of {_shards(total)} failed; the next run tries them again.", err=True)
        return False
    _scored(plan.job, output, output.files())  # what another run has put there meanwhile would stand under our manifest
    output.write(MANIFEST, plan.job.manifest(scored))
    click.echo(f"Wrote {output.path}: {sum(scored.values()):,} digits of {_shards(total)}, and {MANIFEST}.", err=True)
    return True


def _score(plan: Plan, classifier: Classifier, address: str | None, actors: int | None) -> dict[Shard, int]:
    """Score the missing shards; what is returned holds those that were, and their rows."""
    unanswered = {shard.name: shard for shard in plan.missing}
    scored: dict[Shard, int] = {}
    display = Display(plan.missing)
    display.wait("Joining Ray..." if address else "Starting Ray...")
    with ray_pool.joined(address, actors) as cluster:
        count = min(actors or cluster.cpus, len(plan.missing))
        scorers = f"{count:,} scorer{_s(count)} on {cluster.name}"
        display.say(f"Scoring {_shards(len(plan.missing))} with {scorers}.")
        display.wait("Starting the scorers...")
        settings = {
            "classifier": classifier,
            "job": plan.job,
            "folder": plan.folder,
            "output": plan.output,
            "report_every": min(_REPORT_ROWS * count, _MOST_ROWS),
        }
        failure: ClusterError | None = None
        try:
            for report in ray_pool.score(plan.missing, settings, count):
                display.add(report)
                if report.error:
                    del unanswered[report.shard]
                elif report.done:
                    scored[unanswered.pop(report.shard)] = report.rows
        except ClusterError as error:
            failure = error
        display.end(scorers)
        _tell_unanswered(list(unanswered), display, "" if failure else ", for its scorer was lost each time")
        if failure:
            raise failure
    return scored


def _tell_unanswered(names: list[str], display: Display, why: str) -> None:
    for name in names[:_NAMED]:
        display.complain(f"{name} has no answer{why}; Ray's logs tell more")
    if (more := len(names) - _NAMED) > 0:
        display.complain(f"{_shards(more)} more {'has' if more == 1 else 'have'} no answer")


def _scored(job: Job, output: Place, found: Iterable[str]) -> dict[str, tuple[Shard, int]]:
    """The shard and rows of each file of answers in a folder, read many at a time; every one has to be of this job."""
    names = [name for name in found if name.endswith(".parquet")]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(names, pool.map(lambda name: job.scored(output, name), names), strict=True))


def _sweep(output: Place, names: Iterable[str]) -> None:
    """Remove what scorers that were killed had begun."""
    for name in filter(is_temporary, names):
        output.remove(name)


def _shards(count: int) -> str:
    return f"{count:,} shard{_s(count)}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
