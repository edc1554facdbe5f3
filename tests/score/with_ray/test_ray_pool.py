"""mnist-score on a Ray of two nodes: each row is scored once and correctly, even if scorers or runs are killed."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

TIMEOUT = 900  # seconds, also on a slow machine
pytestmark = pytest.mark.timeout(1200)


def scorers() -> list[int]:
    """Return the processes of the scorers that Ray runs below this one."""
    parents, found = {}, []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = status.read_text().rpartition(")")[2].split()
            command = status.with_name("cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(status.parent.name)] = int(words[1])
        if command.startswith(b"ray::MapWorker(MapBatches(Scorer))"):
            found.append(int(status.parent.name))

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return [pid for pid in found if is_ours(pid)]


def in_the_middle(process, output: Path) -> None:
    """Wait until some shards are scored, and others begun."""
    deadline = time.monotonic() + TIMEOUT
    while not (len(list(output.rglob("digits.parquet"))) >= 3 and list(output.rglob("*.tmp"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listed(output: Path) -> dict[str, int]:
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in output.rglob("*.parquet")}


def test_an_undisturbed_run_scores_each_row_once_on_both_nodes(score, two_nodes, millions, check_all, tmp_path):
    result = score(millions, tmp_path / "out", "--address", two_nodes)
    assert result.returncode == 0, result.stderr
    check_all(tmp_path / "out")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[1:3] == [
        f"Joining the Ray at {two_nodes}.",
        f"Scoring 30 shards with 2 scorers on the 2 nodes at {two_nodes}.",
    ]
    assert re.fullmatch(r"Scored 2,100,000 digits in [\d.,]+ s, [\d,]+ per second, with 2 scorers on .*\.", lines[-2])
    assert lines[-1] == f"Wrote {tmp_path}/out: 2,100,000 digits of 30 shards, and _manifest.json."
    assert all(re.match(r" *\d+%\|.*\]", line) for line in lines[3:-2])


def test_a_run_survives_a_killed_scorer(start, two_nodes, millions, check_all, tmp_path):
    process = start(millions, tmp_path / "out", "--address", two_nodes)
    in_the_middle(process, tmp_path / "out")
    os.kill(scorers()[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    assert "Error" not in stderr
    check_all(tmp_path / "out")


def test_a_killed_run_is_completed_by_the_next_one(start, score, two_nodes, millions, check_all, tmp_path):
    output = tmp_path / "out"
    process = start(millions, output, "--address", two_nodes)
    in_the_middle(process, output)
    process.kill()
    process.wait()
    before = listed(output)
    assert not (output / "_manifest.json").exists()
    again = score(millions, output, "--address", two_nodes)
    assert again.returncode == 0, again.stderr
    check_all(output)
    assert before.items() <= listed(output).items()  # no shard was scored twice
    third = score(millions, output, "--address", two_nodes)
    assert third.stderr.endswith(f"Nothing to do: {output} has all 30 shards.\n")
