"""Shell completion, by the lines that docs/runtime.md gives to copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs" / "runtime.md"
BIN = Path(sys.executable).parent

LINES = {
    shell: line.strip()
    for line, shell in re.findall(
        r"^(.*_MNIST_INFER_COMPLETE=(\w+)_source mnist-infer.*?)(?:  +#.*)?$", DOCS.read_text(), re.M
    )
}
"""Documented lines, by shell."""


def in_shell(shell: str, script: str) -> str:
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.check_output([shell, "-c", script], env=env, timeout=60).decode()


def test_the_docs_name_every_shell():
    assert set(LINES) == {"bash", "zsh", "fish"}


@pytest.mark.parametrize("shell", LINES)
def test_the_documented_line_prints_a_completion_script(shell):
    command = re.search(r"_MNIST_INFER_COMPLETE=\w+ mnist-infer", LINES[shell])
    script = in_shell("sh", command.group())
    assert f"_MNIST_INFER_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        in_shell(shell, LINES[shell] if shell != "zsh" else f"autoload -U compinit && compinit -D\n{LINES[shell]}")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_bash_completes_options_and_their_values():
    script = (
        LINES["bash"]
        + """
complete -p mnist-infer
propose() {
  COMP_WORDS=(mnist-infer "$@") COMP_CWORD=$# COMPREPLY=()
  _mnist_infer_completion mnist-infer
  echo "${COMPREPLY[@]}"
}
propose --pro
propose --format js
"""
    )
    registered, options, values = in_shell("bash", script).splitlines()
    assert registered.endswith("mnist-infer")
    assert options == "--probabilities"
    assert values == "json jsonl"
