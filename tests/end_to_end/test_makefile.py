"""make installs torch's CPU build on a machine without an NVIDIA driver, and respects a configured index."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"

pytestmark = pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists(), reason="has an NVIDIA driver"
)


def set_up(*words: str, **variables: str) -> str:
    """Return the commands by which make would set up .venv, with these variables as pip's only configuration."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "MAKE"))}
    env = {**clean, "PIP_CONFIG_FILE": os.devnull, **variables}
    command = ["make", "--dry-run", "--what-if", "pyproject.toml", ".venv/demo", *words]
    return subprocess.check_output(command, cwd=ROOT, env=env, text=True)


def test_without_a_driver_and_an_index_torch_is_the_cpu_build_and_make_says_so():
    lines = set_up()
    assert f"--extra-index-url {CPU_BUILDS}" in lines
    assert f"torch comes from {CPU_BUILDS}" in lines


@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"])
def test_a_configured_index_is_left_alone(variable):
    assert "--extra-index-url" not in set_up(**{variable: "http://127.0.0.1/simple"})


def test_one_variable_overrides_both():
    assert "--extra-index-url" not in set_up("TORCH_INDEX=")
    mirror = "http://127.0.0.1/torch"
    assert f"--extra-index-url {mirror}" in set_up(f"TORCH_INDEX={mirror}", PIP_INDEX_URL="http://127.0.0.1/simple")
