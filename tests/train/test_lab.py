"""docs/lab.md: every block runs, in order, and prints what stands below it."""

import contextlib
import functools
import http.server
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "lab.md"
BLOCKS = re.compile(r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<printed>.*?)^```", re.DOTALL | re.MULTILINE)
LAB_URL = "https://github.com/pytorch/tutorials/raw/main/_static"


@pytest.fixture
def lab_server(lab_pickle: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(lab_pickle.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_block_of_the_walk_through_prints_what_the_page_says(
    lab_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8").replace(LAB_URL, lab_server)
    blocks = list(BLOCKS.finditer(page))
    assert len(blocks) == page.count("```python") == 10
    names: dict[str, object] = {}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], str(PAGE), "exec"), names)
        assert printed.getvalue() == block["printed"], block["code"]
