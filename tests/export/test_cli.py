"""mnist-export as people run it."""

import hashlib
import os

import pytest


def digests(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("m*")}


def test_the_same_checkpoint_gives_the_same_bytes_anywhere(run, trained, exported, tmp_path):
    elsewhere = tmp_path / "another place, with spaces"
    elsewhere.mkdir()
    source = os.path.relpath(trained / "mnist.safetensors", elsewhere)
    result = run("mnist-export", source, "--output-dir", "4711", cwd=elsewhere)
    assert result.returncode == 0
    assert digests(elsewhere / "4711") == digests(exported)


def test_an_export_prints_its_proof_and_files(run, trained, tmp_path):
    result = run("mnist-export", trained / "mnist.safetensors", "--format", "onnx", "--output-dir", tmp_path)
    said = result.stdout.decode()
    assert result.returncode == 0
    assert result.stderr == b""
    assert "validation digits   10,000      10,000     10,000" in said
    assert f"Wrote {tmp_path / 'mnist.onnx'}" in said
    assert set(digests(tmp_path)) == {"mnist.onnx", "manifest.json"}


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"", "is empty"), (b"hello", "is damaged"), ("cut", "is damaged")],
)
def test_a_checkpoint_that_cannot_be_used_leaves_the_old_artifacts(run, trained, tmp_path, content, said):
    (tmp_path / "mnist.onnx").write_text("from before")
    source = tmp_path / "source.safetensors"
    if content == "cut":
        content = (trained / "mnist.safetensors").read_bytes()[:20_000]
    if content is not None:
        source.write_bytes(content)
    result = run("mnist-export", source, "--output-dir", tmp_path)
    (complaint,) = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert complaint.startswith(f"Error: {source} {said}")
    assert (tmp_path / "mnist.onnx").read_text() == "from before"


def test_a_limit_that_no_loss_exceeds_is_wrong_usage(run, tmp_path):
    result = run("mnist-export", "--max-accuracy-drop", "nan", "--output-dir", tmp_path)
    assert result.returncode == 2
    assert b"'--max-accuracy-drop': 'nan' is not a finite number" in result.stderr


def test_an_output_folder_that_cannot_be_made_is_refused_at_once(run, trained, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run("mnist-export", trained / "mnist.safetensors", "--output-dir", tmp_path / "file")
    assert result.returncode == 1
    assert f"cannot write {tmp_path / 'file'}" in result.stderr.decode()
    assert result.stdout == b""
