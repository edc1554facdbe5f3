"""How far a run is: on a terminal a line that redraws itself, elsewhere a line now and then."""

import os
import sys
import time

import click

from mnist_runtime.console.command import complain
from mnist_score.scorer import Report
from mnist_score.shards import Shard

_INTERVAL = 10.0  # seconds between two lines where there is no terminal
_CLEAR = "\r\x1b[2K"  # to the line's beginning, and erase it (ECMA-48)


class Progress:
    """Digits, bytes and shards that are done, as reports tell; the first one starts the clock.

    >>> progress = Progress([Shard("a.npy", 800, 0), Shard("b.npy", 200, 0)])
    >>> progress.add(Report("a.npy", rows=0, count=2000), now=5.0)
    >>> progress.add(Report("a.npy", rows=1000, count=2000), now=7.0)
    >>> progress.line()
    ' 40%  1,000 digits  500/s  0 of 2 shards  0:00:03 left'
    """

    def __init__(self, shards: list[Shard]) -> None:
        """Count towards all of `shards`."""
        self.rows = 0
        """Digits scored."""
        self.seconds = 0.0
        """From the first report to the last."""
        self._begun: float | None = None
        self._sizes = {shard.name: shard.size for shard in shards}
        self._size, self._read = sum(self._sizes.values()), 0.0
        self._under_way: dict[str, tuple[int, float]] = {}  # digits and bytes counted of each shard that is not done
        self._ended = 0

    def add(self, report: Report, now: float) -> None:
        """Count what a report tells at `now`, in seconds. A shard that fails counts as read."""
        self._begun = now if self._begun is None else self._begun
        self.seconds = now - self._begun
        ended = report.done or bool(report.error)
        rows, read = self._under_way.pop(report.shard, (0, 0.0))
        share = 1.0 if ended else report.rows / max(report.count, 1)
        now_read = self._sizes[report.shard] * share
        self.rows += report.rows - rows
        self._read += now_read - read
        self._ended += ended
        if not ended:
            self._under_way[report.shard] = report.rows, now_read

    @property
    def speed(self) -> float:
        """Digits a second."""
        return self.rows / self.seconds if self.seconds else 0.0

    def line(self) -> str:
        """What to show. The time left follows from bytes: how many digits there are is known once all are read."""
        left = _clock(self.seconds * (self._size - self._read) / self._read) if self._read else "?"
        shards = f"{self._ended:,} of {len(self._sizes):,} shards"
        share = self._read / max(self._size, 1)
        return f"{share:4.0%}  {self.rows:,} digits  {self.speed:,.0f}/s  {shards}  {left} left"


class Display:
    """A run's progress on stderr, and its errors as they come."""

    def __init__(self, shards: list[Shard]) -> None:
        """Show nothing yet."""
        self._progress = Progress(shards)
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown: float | None = None

    def wait(self, what: str) -> None:
        """Say on a terminal what is waited for, until there is more to say."""
        if self._terminal:
            click.echo(f"{_CLEAR}{what}", err=True, nl=False)

    def say(self, line: str) -> None:
        """Print a line to stay."""
        self._clear()
        click.echo(line, err=True)

    def complain(self, sentence: str) -> None:
        """Print an error to stay."""
        self._clear()
        complain(sentence)

    def add(self, report: Report) -> None:
        """Show what a report tells."""
        now = time.monotonic()
        self._progress.add(report, now)
        if report.error:
            self.complain(report.error)
        if self._terminal:
            self.wait(self._progress.line())
        elif self._shown is None:
            self._shown = now
        elif now - self._shown >= _INTERVAL:
            self._shown = now
            self.say(self._progress.line())

    def end(self, scorers: str) -> None:
        """Sum up."""
        done = self._progress
        self.say(f"Scored {done.rows:,} digits in {done.seconds:,.1f} s, {done.speed:,.0f} a second, with {scorers}.")

    def _clear(self) -> None:
        if self._terminal:
            click.echo(_CLEAR, err=True, nl=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
