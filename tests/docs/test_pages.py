"""The commands and the Python of every page run, and the commands print what the page shows.

A comment before a block can say `<!-- not run: WHY -->`, `<!-- in the background: WHY -->` or `<!-- slow -->`.
FRESH_ENVIRONMENTS=1 (make docs) runs the slow blocks too, and makes an environment per page with what the page
installs; else the tests' environment is used. The pages about the lab, the server and scale have tests of their own; in
fresh environments, the first two are run here too.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "runtime/README.md",
    "examples/README.md",
    "docs/runtime.md",
    *(pytest.param(f"docs/{name}.md", marks=pytest.mark.heavy) for name in ("training", "export", "edge")),
]
FRESH = bool(os.environ.get("FRESH_ENVIRONMENTS"))
if FRESH:
    PAGES += ["docs/lab.md", "docs/serve.md"]

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|in the background|slow)\b[^\n]*-->\n)?"
    r"^```(?P<language>console|sh|python)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"^\$ (?P<text>(?:.*\\\n)*.*)\n(?P<printed>(?:(?!\$ ).*\n)*)", re.MULTILINE)
INSTALLS = re.compile(r"^(pip |python3 -m venv|\. )")
END = "-- end of command, exit code"
ANSWERS = "curl --silent --output ready --retry 100 --retry-connrefused --retry-delay 1 localhost:8000/v2/health/ready"
"""Waits for the server that runs in the background."""


@dataclass(frozen=True)
class Command:
    """A command of a page."""

    text: str
    printed: str
    """Output on the page; empty if the page shows none."""


def commands(page: str) -> Iterator[Command]:
    """Yield the commands of a page that are to be run."""
    for block in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        if block["mark"] == "not run" or (block["mark"] == "slow" and not FRESH):
            continue
        if block["mark"] == "in the background":
            yield Command(f"{block['body'].rstrip()} > server.log 2>&1 &\n{ANSWERS}", "")
            continue
        if block["language"] == "python" and page == "docs/lab.md":
            continue  # parts of the script that its commands extract
        if block["language"] == "python":
            yield Command(f"python - <<'END'\n{block['body']}END", "")
            continue
        is_console = block["language"] == "console"
        for found in COMMAND.finditer(
            block["body"] if is_console else re.sub("^(?=.)", "$ ", block["body"], flags=re.MULTILINE)
        ):
            if FRESH or not INSTALLS.match(found["text"]):
                yield Command(found["text"], found["printed"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the files that git tracks, so that a page can write files anywhere."""
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if (source := ROOT / name).is_file() and not name.startswith("tests/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_print_what_it_shows(
    page: str, checkout: Path, tmp_path_factory: pytest.TempPathFactory
):
    bin_folder = Path(sys.executable).parent
    if FRESH:
        environment = tmp_path_factory.mktemp("environment")
        venv.create(environment, with_pip=True)
        bin_folder = environment / "bin"
    told = list(commands(page))
    assert told
    steps = (f"{command.text}\necho; echo '{END}' $?" for command in told)
    script = "\n".join(["exec 2>&1; trap 'kill $(jobs -p)' EXIT", *steps])
    clean = {key: value for key, value in os.environ.items() if key not in {"MNIST_MODEL", "VIRTUAL_ENV"}}
    env = {**clean, "PATH": f"{bin_folder}{os.pathsep}{clean['PATH']}", "HOME": str(checkout), "NO_COLOR": "1"}
    env["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")  # the versions that the tests know
    done = subprocess.run(["bash", "-c", script], cwd=checkout, env=env, capture_output=True, text=True, check=False)
    ends = list(re.finditer(rf"\n{END} (\d+)\n", done.stdout))
    starts = [0, *(end.end() for end in ends)]
    assert len(ends) == len(told), done.stdout
    for command, start, end in zip(told, starts, ends, strict=False):
        printed = done.stdout[start : end.start()]
        assert end[1] == "0", (command.text, printed)
        expected = command.printed and f"{command.printed.rstrip()}\n"
        assert not expected or doctest.OutputChecker().check_output(
            expected, f"{printed.rstrip()}\n", doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        ), f"{command.text}\nprinted:\n{printed}\nand the page shows:\n{command.printed}"
