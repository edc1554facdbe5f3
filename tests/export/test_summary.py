"""The table of formats: measured, aligned, and no wider than a terminal."""

import pytest

from mnist_export import export
from mnist_export.bundle import Gated
from mnist_export.summary import NOTE, microseconds, summarise, to_text


@pytest.fixture(scope="module")
def gated(checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Gated]:
    return export(checkpoint, ["onnx", "onnx-exact", "torchscript"], tmp_path_factory.mktemp("gated"))


def test_a_row_shows_size_speed_accuracy_certified_labels_and_proof(gated: list[Gated]):
    heading, rows = summarise(gated)
    assert heading == ["format", "bytes", "µs per digit", "accuracy", "certified labels", "proof"]
    assert [row[0] for row in rows] == ["onnx", "onnx-exact", "torchscript"]
    assert [row[1] for row in rows] == [f"{len(artifact.data):,}" for artifact in gated]
    assert [row[3] for row in rows] == [f"{artifact.verdict.accuracy:.2%}" for artifact in gated]
    assert [row[4] for row in rows] == ["10,000 of 10,000"] * 3
    assert [row[5] for row in rows] == ["analytic", "exact", "analytic"]


def test_speed_is_measured_where_onnxruntime_runs_the_artifact(gated: list[Gated]):
    _, rows = summarise(gated)
    assert [row[2] == "-" for row in rows] == [False, False, True]
    assert 0.1 < microseconds(gated[0]) < 1e5


def test_the_table_is_aligned_and_fits_a_terminal(gated: list[Gated]):
    lines = [*to_text(summarise(gated)).splitlines(), NOTE]
    assert max(map(len, lines)) <= 80
    ends = {line.index("analytic") for line in lines if "analytic" in line}
    assert ends == {lines[0].index("proof")}
