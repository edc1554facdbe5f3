"""docs/serve.md: its commands run and print what it shows, and every option is there."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import click

from mnist_serve.cli import serve

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_commands_of_the_page_print_what_it_shows(server, tmp_path):
    address = server.url.removeprefix("http://")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pairs = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks("console")), re.MULTILINE)
    assert len(pairs) >= 10
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command, expected in pairs:
        local = command.replace("localhost:8000", address)
        done = subprocess.run(
            ["bash", "-c", local],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        printed = done.stdout if done.stdout.endswith("\n") or not done.stdout else done.stdout + "\n"
        assert doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS), (command, printed)


def test_the_python_of_the_page_runs(server, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for block in blocks("python"):
        code = block.replace("localhost:8000", server.url.removeprefix("http://"))
        exec(compile(code, "docs/serve.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[7] 0.98")


def test_every_option_is_documented_with_its_default():
    table = DOCUMENT.partition("## Options")[2].partition("Exit codes")[0]
    for option in serve.params:
        assert isinstance(option, click.Option)
        name = (option.secondary_opts or option.opts)[0]
        if name == "--version":
            continue
        (row,) = [line for line in table.splitlines() if line.startswith("| `") and f"`{name}" in line.split("|")[1]]
        if isinstance(option.default, (int, float, str)) and not isinstance(option.default, bool):
            assert f"{option.default:g}" in row if isinstance(option.default, float) else str(option.default) in row
