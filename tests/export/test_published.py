"""mnist-parity catches damage to published files, and says whether the integrity or the numbers check found it."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mnist_runtime.model.artifact import PREFIX
from mnist_runtime.model.manifest import read_manifest
from mnist_runtime.model.seal import seal
from mnist_runtime.parity.findings import verify_file, verify_folder


@pytest.fixture
def folder(everything: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(everything, tmp_path / "published")


def _flip(path: Path, place: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << (place % 8)
    return bytes(data)


def _with_weights(path: Path, edit) -> bytes:
    """Return the model with other weights and a valid seal, which no accident leaves."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), tensor.name))
    next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}sha256").value = "0" * 64
    return seal(model.SerializeToString(deterministic=True))


def test_a_published_folder_is_verified_without_torch(everything: Path, run):
    result = run("mnist-parity", everything)
    assert result.returncode == 0, result.stderr
    for name in read_manifest(everything).files:
        assert name in result.stdout.decode()
    assert b"Parity holds" in result.stdout


def test_a_model_that_the_manifest_does_not_list_is_reported(folder: Path, run):
    shutil.copy(folder / "mnist.onnx", folder / "stray.onnx")
    result = run("mnist-parity", folder)
    assert result.returncode == 0
    assert b"Note: stray.onnx is not in manifest.json and was not checked." in result.stderr
    *listed, stray = json.loads(run("mnist-parity", folder, "--format", "json").stdout)
    assert all(found["listed"] and found["passed"] for found in listed)
    assert (stray["file"], stray["listed"], stray["passed"]) == ("stray.onnx", False, None)


def _problems(folder: Path) -> list[tuple[str, str | None]]:
    return [(finding.file, finding.failed_check) for finding in verify_folder(folder) if finding.problem]


@pytest.mark.parametrize("ninth", range(9))
def test_a_flipped_bit_in_any_file_of_a_folder_is_caught_by_its_digest(folder: Path, ninth: int):
    """All files are damaged at once; the next test damages one at a time."""
    files = [entry.file for entry in read_manifest(folder).files.values()]
    for file in files:
        path = folder / file
        path.write_bytes(_flip(path, (path.stat().st_size - 1) * ninth // 8))
    assert _problems(folder) == [(file, "integrity") for file in files]


def test_the_damaged_file_of_a_folder_is_named_and_no_other(folder: Path):
    for entry in read_manifest(folder).files.values():
        path = folder / entry.file
        sound = path.read_bytes()
        path.write_bytes(_flip(path, len(sound) // 2))
        assert _problems(folder) == [(entry.file, "integrity")]
        path.write_bytes(sound)


@pytest.mark.parametrize("damage", ["truncated", "empty", "longer", "missing", "another file of the folder"])
def test_other_damage_to_any_file_of_a_folder_is_caught(folder: Path, damage: str):
    files = [entry.file for entry in read_manifest(folder).files.values()]
    for file in files:
        path = folder / file
        match damage:
            case "truncated":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            case "empty":
                path.write_bytes(b"")
            case "longer":
                path.write_bytes(path.read_bytes() + b"\0")
            case "missing":
                path.unlink()
            case _:
                path.write_bytes((folder / "manifest.json").read_bytes())
    assert _problems(folder) == [(file, "integrity") for file in files]


def test_a_flipped_bit_anywhere_in_a_model_alone_is_caught_by_its_seal(folder: Path):
    path = folder / "mnist.onnx"
    sound = path.read_bytes()
    damaged = folder / "damaged.onnx"
    for place in range(0, len(sound), 101):
        damaged.write_bytes(_flip(path, place))
        finding = verify_file(damaged)
        assert finding.problem, place
        assert finding.failed_check == "integrity"


@pytest.mark.parametrize("length", [1, 1000, 30_000, -1])
def test_a_truncated_model_alone_is_caught(folder: Path, length: int, run):
    path = folder / "mnist.onnx"
    path.write_bytes(path.read_bytes()[:length])
    result = run("mnist-parity", path)
    assert result.returncode == 1
    assert b"found by the integrity check" in result.stdout


WRONG_WEIGHTS = {
    "transposed": lambda weight: np.ascontiguousarray(weight.reshape(10, 28, 28).transpose(0, 2, 1).reshape(10, 784)),
    "swapped class": lambda weight: weight[[0, 1, 2, 5, 4, 3, 6, 7, 8, 9]],
    "NaN": lambda weight: np.where(np.arange(784) == 300, np.float32(np.nan), weight),
    "scale 1/255": lambda weight: weight * np.float32(256 / 255),
    "float16": lambda weight: weight.astype(np.float16).astype(np.float32),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
@pytest.mark.parametrize("file", ["mnist.onnx", "mnist.uint8.onnx"])
def test_other_weights_under_a_fitting_seal_are_caught_by_the_numbers(folder: Path, file: str, name: str):
    path = folder / file
    path.write_bytes(_with_weights(path, WRONG_WEIGHTS[name]))
    finding = verify_file(path)
    assert finding.failed_check == "numbers"
    assert "not at parity" in finding.problem
    assert [found.failed_check for found in verify_folder(folder) if found.problem] == ["integrity"]


def test_one_weight_under_a_fitting_seal_is_caught_by_the_manifest(folder: Path):
    """The 23 golden digits do not find so small a change in every place, but the manifest does."""
    path = folder / "mnist.onnx"

    def edit(weight: np.ndarray) -> np.ndarray:
        weight[4, 300] *= np.float32(1.001)
        return weight

    path.write_bytes(_with_weights(path, edit))
    assert [found.failed_check for found in verify_folder(folder) if found.problem] == ["integrity"]


def test_a_failed_comparison_draws_the_worst_digit(folder: Path, run):
    path = folder / "mnist.onnx"
    path.write_bytes(_with_weights(path, WRONG_WEIGHTS["swapped class"]))
    result = run("mnist-parity", path)
    assert result.returncode == 1
    said = result.stdout.decode()
    assert "FAIL" in said
    assert "times what rounding allows" in said
    assert "▀" in said, "the digit of one lit pixel"
    assert b"found by the numbers check" in result.stdout
    assert b"Parity holds" not in result.stdout


def test_findings_can_be_printed_as_json(folder: Path, run):
    assert all(found["passed"] for found in json.loads(run("mnist-parity", folder, "--format", "json").stdout))
    path = folder / "mnist.onnx"
    path.write_bytes(_with_weights(path, WRONG_WEIGHTS["NaN"]))
    result = run("mnist-parity", path, "--format", "json")
    (found,) = json.loads(result.stdout)
    assert result.returncode == 1
    assert (found["passed"], found["failed_check"]) == (False, "numbers")
    assert found["parity"]["worst_error"] is None


def test_a_model_of_another_checkpoint_in_the_folder_is_caught(folder: Path, bundled: Path):
    """Even if a hand-made manifest lists it."""
    document = json.loads((folder / "manifest.json").read_text())
    document["checkpoint"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(document))
    problems = [finding.problem for finding in verify_folder(folder) if finding.file == "mnist.onnx"]
    assert "is of another checkpoint" in problems[0]


def test_a_folder_without_a_manifest_is_reported(tmp_path: Path, run):
    result = run("mnist-parity", tmp_path)
    assert result.returncode == 1
    assert b"manifest.json does not exist; give a folder that mnist-export wrote" in result.stderr


def test_unreadable_golden_digits_are_reported(folder: Path):
    path = folder / "mnist.onnx"
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}golden").value = "none"
    next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}sha256").value = "0" * 64
    path.write_bytes(seal(model.SerializeToString(deterministic=True)))
    finding = verify_file(path)
    assert finding.failed_check == "numbers"
    assert "no readable golden digits" in finding.problem
