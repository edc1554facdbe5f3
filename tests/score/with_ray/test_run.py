"""mnist-score as people run it, on a Ray that it starts itself."""

import contextlib
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

TIMEOUT = 900  # seconds, also on a slow machine
pytestmark = pytest.mark.timeout(1200)


def test_damaged_shards_are_named_the_others_scored_and_the_next_run_tries_them_again(
    score, shifted, write_shard, plain, tmp_path
):
    folder, output = tmp_path / "in", tmp_path / "out"
    for k in range(6):
        write_shard(folder / f"{k}.parquet", shifted(k))
    whole = (folder / "1.parquet").read_bytes()
    (folder / "1.parquet").write_bytes(whole[:-100])
    np.save(folder / "4.npy", np.zeros((3, 32, 32), np.uint8))
    result = score(folder, output)
    assert result.returncode == 1
    errors = sorted(line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert len(errors) == 2
    assert errors[0].startswith("Error: 1.parquet cannot be scored (Parquet magic bytes not found")
    assert errors[1].startswith("Error: 4.npy: the shape is (3, 32, 32), and digits are")
    assert result.stderr.endswith("2 of 7 shards failed; the next run tries them again.\n")
    assert sorted(path.name for path in output.iterdir()) == [f"{k}.parquet" for k in (0, 2, 3, 4, 5)]

    (folder / "1.parquet").write_bytes(whole)
    np.save(folder / "4.npy", shifted(6))
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    result = score(folder, output, "--actors", 1)
    assert result.returncode == 0, result.stderr
    assert "Scoring 2 shards with 1 scorer on this machine." in result.stderr
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in output.iterdir()}.items()
    assert json.loads((output / "_manifest.json").read_text())["rows"] == 7 * 70_000
    for name, k in [("1.parquet", 1), ("4.npy.parquet", 6)]:
        assert np.array_equal(pq.read_table(output / name)["label"].to_numpy(), plain.predict(shifted(k)))


def test_a_terminal_shows_a_bar(terminal, millions, tmp_path):
    shown = terminal("mnist-score", millions, tmp_path / "out", "--probabilities", "--model", "linear")
    shown.read(until="Scoring 30 shards")
    text = shown.read()
    assert shown.process.returncode == 0
    bars = [line for line in text.split("\r") if re.match(r" *\d+%\|", line)]
    assert len(bars) > 10
    assert max(map(len, bars)) <= 80
    assert all("\n" not in bar for bar in bars[:-1])
    assert re.match(r"100%\|.*2,100,000 digits, 30 of 30 shards\]", bars[-1])
    assert pq.read_schema(tmp_path / "out" / "shift=00" / "digits.parquet").names[-1] == "probability_9"


def wait_for_answers(process: "subprocess.Popen[str]", output: Path) -> None:
    """Wait until the first shard is scored."""
    deadline = time.monotonic() + TIMEOUT
    while not list(output.rglob("digits.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("sig", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_run_on_ray_in_one_sentence(start, millions, tmp_path, sig, code, word):
    process = start(millions, tmp_path / "out")
    wait_for_answers(process, tmp_path / "out")
    process.send_signal(sig)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert stderr.endswith(f"Error: {word}; no file is left half-written under its final name\n")
    assert "Traceback" not in stderr
    assert not (tmp_path / "out" / "_manifest.json").exists()
    for path in (tmp_path / "out").rglob("*.parquet"):
        pq.read_table(path)


POISONED = """
import os, signal, sys
from importlib.machinery import PathFinder

class Poisoned:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "mnist_score.scorer":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            original = module.open_rows

            def open_rows(folder, name, *more):
                if name == "poison.npy":
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(folder, name, *more)

            module.open_rows = open_rows

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Poisoned)
"""
"""Startup code of every Python process: reading poison.npy kills the process, as a shard that takes all memory does."""


@pytest.mark.parametrize("actors", [1, 2])
def test_a_shard_that_kills_its_scorers_is_named_and_the_others_are_scored(score, monkeypatch, real, tmp_path, actors):
    folder, output = tmp_path / "in", tmp_path / "out"
    for path, text in ((folder, None), (tmp_path / "site", POISONED)):
        path.mkdir()
        if text:
            (path / "sitecustomize.py").write_text(text)
    for name in ("a", "b", "c", "d", "poison"):
        np.save(folder / f"{name}.npy", real[:1000])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    result = score(folder, output, "--actors", actors)
    assert result.returncode == 1
    *_, scored, named, summary = result.stderr.splitlines()
    assert scored.startswith("Scored 4,000 digits in ")
    assert named == "Error: poison.npy has no answers, because its scorer died each time; see Ray's logs"
    assert summary == "1 of 5 shards failed; the next run tries them again."
    assert sorted(path.name for path in output.iterdir()) == [f"{name}.npy.parquet" for name in "abcd"]
    assert "Warning" not in result.stderr


def environments(process: "subprocess.Popen[str]") -> dict[str, dict[str, str]]:
    """Return the environment of each process below this one, by its command."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, dict[str, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "environ").read_bytes().decode().split("\0")
            command = (folder / "cmdline").read_bytes().partition(b"\0")[0].decode()
            found[int(folder.name)] = command, dict(word.partition("=")[::2] for word in words)

    def is_below(pid: int) -> bool:
        return pid == process.pid or (pid in parents and is_below(parents[pid]))

    return {command: given for pid, (command, given) in found.items() if pid != process.pid and is_below(pid)}


def test_ray_reports_no_usage_and_leaves_nothing_in_the_home(start, home, millions, tmp_path):
    process = start(millions, tmp_path / "out")
    wait_for_answers(process, tmp_path / "out")
    rays = {command: given for command, given in environments(process).items() if "/ray/" in command}
    assert {"gcs_server", "raylet"} <= {Path(command).name for command in rays}
    assert {given.get("RAY_USAGE_STATS_ENABLED") for given in rays.values()} == {"0"}
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    assert list(home.iterdir()) == []
