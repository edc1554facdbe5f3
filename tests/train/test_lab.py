"""docs/lab.md shows the source, runs as one script without a network, and prints what the page shows.

`python tests/train/test_lab.py` updates the page's blocks of the source and the lines of their links.
"""

import ast
import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "lab.md"

SHOWN = re.compile(
    r"^\[`(?P<name>\w+)` in `(?P<path>[\w/.]+)`\]\(\S+\):\n\n```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
"""A block of the source, under the link to its lines."""

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(\n```text\n(?P<printed>.*?)^```$)?", re.DOTALL | re.MULTILINE)
"""A block of Python, and what it prints."""

LAB_URL = "https://github.com/pytorch/tutorials/raw/main/_static"
NOWHERE = "http://127.0.0.1:1"
SAME, SKIPPED = "the lab's file holds the same digits: True\n", "the download is skipped: there is no network\n"


def with_source(page: str) -> str:
    """Return the page with its blocks of the source as the source is now."""
    return SHOWN.sub(lambda block: _shown(block["name"], block["path"]), page)


def script(page: str) -> str:
    """Return all the Python of the page, as the command on the page extracts it."""
    return "".join(block["code"] for block in BLOCK.finditer(page))


def printed(page: str) -> str:
    """Return all that the page says its script prints."""
    return "".join(block["printed"] or "" for block in BLOCK.finditer(page))


def _shown(name: str, path: str) -> str:
    source = (ROOT / path).read_text(encoding="utf-8")
    first, last = _lines(ast.parse(source).body, name)
    code = "\n".join(source.splitlines()[first - 1 : last])
    return f"[`{name}` in `{path}`](../{path}#L{first}-L{last}):\n\n```python\n{code}\n```"


def _lines(body: list[ast.stmt], name: str) -> tuple[int, int]:
    """Return the first and last line of a function or class; for "imports", of all code before the first of them."""
    defined = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if name == "imports":
        shown = [node for node in body[1:] if node.lineno < defined[0].lineno]
        return shown[0].lineno, shown[-1].end_lineno
    (node,) = (node for node in defined if node.name == name)
    return min(each.lineno for each in [node, *node.decorator_list]), node.end_lineno


@pytest.fixture
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture
def lab_server(lab_pickle: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(lab_pickle.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_page_shows_the_source_and_links_its_lines(page: str):
    assert with_source(page) == page  # python tests/train/test_lab.py updates it


def test_the_command_on_the_page_extracts_its_script(page: str):
    (command,) = re.findall(r"^\$ (sed .*) > lab.py$", page, re.MULTILINE)
    extracted = subprocess.check_output(["bash", "-c", command], cwd=PAGE.parents[1], text=True)
    assert extracted == script(page)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_the_script_runs_without_a_network_and_prints_what_the_page_says(page: str, tmp_path: Path):
    (tmp_path / "lab.py").write_text(script(page).replace(LAB_URL, NOWHERE), encoding="utf-8")
    done = subprocess.run([sys.executable, "lab.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SAME in printed(page)
    assert done.stdout == printed(page).replace(SAME, SKIPPED)


def test_the_download_holds_the_bundled_digits(run, page: str, lab_server: str, tmp_path: Path):
    blocks = [block["code"] for block in BLOCK.finditer(page)]
    until = next(index for index, code in enumerate(blocks) if LAB_URL in code)
    code = "".join(blocks[: until + 1]).replace(LAB_URL, lab_server)
    done = run("python", "-c", code, cwd=tmp_path)
    assert done.stdout.decode().endswith(SAME), done.stderr


if __name__ == "__main__":
    PAGE.write_text(with_source(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
