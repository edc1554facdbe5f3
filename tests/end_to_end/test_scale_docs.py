"""The lines of docs/scale.md that need no cluster: the parts of each scheduler together make up the whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_runtime import Classifier

SCALE = Path(__file__).parents[2] / "docs" / "scale.md"
COUNT = 8  # parts, on the page


def block(start: str) -> str:
    """Return the code block of the page that begins with `start`."""
    found = re.search(rf"^```\w+\n({re.escape(start)}.*?)^```$", SCALE.read_text(encoding="utf-8"), re.DOTALL | re.M)
    assert found, f"the page has no block that begins with {start}"
    return found[1]


@pytest.fixture
def shell(tmp_path, test_split):
    """Run lines of a shell beside digits.npy, with our commands on its path."""
    digits = test_split.images[:1001]  # which eight parts cannot share evenly
    np.save(tmp_path / "digits.npy", digits)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def shell(lines: str, **variables: object) -> None:
        env = {**os.environ, "PATH": path, **{name: str(value) for name, value in variables.items()}}
        subprocess.run(["bash", "-euc", lines], cwd=tmp_path, env=env, check=True, timeout=300, capture_output=True)

    yield shell
    parts = [np.load(tmp_path / f"labels.{index}-of-{COUNT}.npy") for index in range(1, COUNT + 1)]
    assert np.array_equal(np.concatenate(parts), Classifier().predict(digits))


def test_the_loop_of_xargs(shell):
    shell(block("seq "))


def test_the_array_of_slurm(shell):
    script = block("#!/bin/bash\n#SBATCH --array")
    assert f"--array=1-{COUNT}" in script
    for index in range(1, COUNT + 1):
        shell(script, SLURM_ARRAY_TASK_ID=index, SLURM_ARRAY_TASK_COUNT=COUNT)


def test_the_indexed_job_of_kubernetes(shell):
    manifest = block("apiVersion: batch/v1")
    assert "completionMode: Indexed" in manifest
    assert f"completions: {COUNT}\n" in manifest
    command = re.search(r"^ +(mnist-score .*)$", manifest, re.M)[1]
    assert "/data/" in command
    for index in range(COUNT):
        shell(command.replace("/data/", ""), JOB_COMPLETION_INDEX=index)
