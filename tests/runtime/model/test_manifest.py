"""manifest.json: malformed ones, changed files, and names that leave the folder are refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from mnist_runtime import FileMissingError, FileReadError, IntegrityError, ManifestError
from mnist_runtime.model.manifest import SIZE_LIMIT, read_manifest


@pytest.fixture
def folder(tmp_path: Path, bundled: Path) -> Path:
    """The bundled model as an export publishes it."""
    data = bundled.read_bytes()
    (tmp_path / "mnist.onnx").write_bytes(data)
    _write(tmp_path, {"mnist.onnx": _entry(data)})
    return tmp_path


def _entry(data: bytes, **changes: object) -> dict[str, object]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"format": "onnx", "sha256": sha256, "size": len(data), "input": {"dtype": "float32"}, **changes}


def _write(folder: Path, files: object, **changes: object) -> None:
    document = {"schema": 1, "checkpoint": {"sha256": "0" * 64}, "files": files, **changes}
    (folder / "manifest.json").write_text(json.dumps(document))


def test_the_listed_files_are_found_and_read(folder: Path, bundled: Path):
    manifest = read_manifest(str(folder))
    entry = manifest.find("onnx")
    assert (entry.file, entry.input_dtype, entry.size) == ("mnist.onnx", "float32", bundled.stat().st_size)
    assert manifest.read("mnist.onnx") == bundled.read_bytes()
    assert manifest.find("onnx-uint8") is None


def test_a_file_that_is_not_a_model_has_no_input(folder: Path):
    _write(folder, {"triton/mnist/config.pbtxt": _entry(b"text", input=None, format="triton-config")})
    assert read_manifest(folder).files["triton/mnist/config.pbtxt"].input_dtype is None


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("damage", [_flip, lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_changed_file_is_refused(folder: Path, damage):
    path = folder / "mnist.onnx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="SHA-256 or size differs"):
        read_manifest(folder).read("mnist.onnx")


def test_a_missing_file_is_named(folder: Path):
    (folder / "mnist.onnx").unlink()
    with pytest.raises(FileMissingError, match=r"mnist\.onnx does not exist; manifest\.json lists it"):
        read_manifest(folder).read("mnist.onnx")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path):
    with pytest.raises(FileMissingError, match="give a folder that mnist-export wrote"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name", ["../mnist.onnx", "/etc/passwd", "a/../../b", "C:\\x", "a\\b", ".hidden", "a//b", "", "a/", "a\n"]
)
def test_a_name_that_could_leave_the_folder_is_refused(folder: Path, name: str):
    _write(folder, {name: _entry(b"x")})
    with pytest.raises(ManifestError, match="plain name"):
        read_manifest(folder)


def test_a_file_behind_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "mnist.onnx").write_bytes(b"x")
    (folder / "sub").symlink_to(outside)
    _write(folder, {"sub/mnist.onnx": _entry(b"x")})
    with pytest.raises(IntegrityError, match=r"sub is a link out of .*, and is not followed"):
        read_manifest(folder).read("sub/mnist.onnx")


def test_links_within_the_folder_and_to_the_folder_are_followed(folder: Path, bundled: Path):
    """Kubernetes mounts each file of a volume as a link within it."""
    (folder / "data").mkdir()
    (folder / "mnist.onnx").rename(folder / "data" / "mnist.onnx")
    (folder / "mnist.onnx").symlink_to("data/mnist.onnx")
    (folder / "linked").symlink_to(folder)
    assert read_manifest(folder / "linked").read("mnist.onnx") == bundled.read_bytes()


def test_a_manifest_that_is_a_pipe_is_refused_at_once(folder: Path):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(FileReadError, match="is a pipe or a device"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 63},
        {"sha256": 5},
        {"size": "33"},
        {"size": True},
        {"size": 0},
        {"size": -1},
        {"format": None},
        {"input": "float32"},
        {"input": {"dtype": "complex64"}},
        {"input": {}},
    ],
)
def test_a_malformed_entry_is_refused(folder: Path, changes: dict[str, object]):
    _write(folder, {"mnist.onnx": _entry(b"x", **changes)})
    with pytest.raises(ManifestError, match="not a manifest of mnist-export"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "{}", '{"schema": 1}', '{"schema": 1, "files": []}', "[" * 100_000]
)
def test_other_documents_are_refused(folder: Path, text: str):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="not a manifest of mnist-export"):
        read_manifest(folder)


@pytest.mark.parametrize("checkpoint", [None, {}, {"sha256": 7}, {"sha256": "../../x"}])
def test_a_manifest_without_a_valid_checkpoint_is_refused(folder: Path, checkpoint: object):
    _write(folder, {}, checkpoint=checkpoint)
    with pytest.raises(ManifestError, match="not a manifest of mnist-export"):
        read_manifest(folder)


def test_another_schema_is_refused(folder: Path):
    _write(folder, {}, schema=2)
    with pytest.raises(ManifestError, match="has schema 2, and this version reads 1"):
        read_manifest(folder)


def test_a_manifest_of_absurd_size_is_refused_before_it_is_read(folder: Path):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    with pytest.raises(OSError, match="larger than 4,194,304 bytes"):
        read_manifest(folder)
