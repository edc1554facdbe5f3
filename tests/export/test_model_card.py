"""--report writes a page with pictures, and tables for a model card."""

import re
from pathlib import Path

import pytest

PICTURES = ("errors.png", "sizes.png", "risk.png", "reliability.png")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    formats = ["--format", "onnx", "--format", "onnx-exact", "--format", "torchscript"]
    result = run("mnist-export", trained / "mnist.safetensors", *formats, "--output-dir", folder / "out",
                 "--report", folder / "shown")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert b"index.html" in result.stdout
    assert "\nformat " in result.stdout.decode(), "the table over the formats comes last"
    return folder / "shown"


def test_the_page_shows_every_picture_and_all_pictures_are_there(report: Path):
    page = (report / "index.html").read_text()
    shown = set(re.findall(r'<img src="([^"]+)" alt="[^"]+">', page))
    assert shown == {*PICTURES, "onnx.png", "onnx-exact.png"} == {p.name for p in report.glob("*.png")}
    assert all((report / name).read_bytes().startswith(PNG) for name in shown)


def test_page_and_card_tell_the_same_numbers(report: Path):
    page, card = (report / "index.html").read_text(), (report / "report.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| onnx")]
    assert len(rows) == 2 + 2 * 3 + 2 * 2
    for row in rows:
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" in page


def test_without_matplotlib_the_package_is_named_before_any_work(run, tmp_path: Path, trained: Path):
    program = (
        "import sys; sys.modules['matplotlib'] = None; sys.argv[0] = 'mnist-export'\n"
        "from mnist_export.cli import export; export()"
    )
    options = ["--output-dir", tmp_path, "--report", tmp_path]
    done = run("python", "-c", program, trained / "mnist.safetensors", *options)
    assert done.returncode == 1
    assert b"run: pip install matplotlib" in done.stderr
    assert not list(tmp_path.iterdir())
