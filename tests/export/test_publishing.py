"""A published folder holds the old set or the new one, or its manifest says neither, whenever an exporter is killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_export import publishing
from mnist_export.errors import BusyError
from mnist_export.publishing import LOCK, File, publish
from mnist_runtime import FileMissingError, FileWriteError, ManifestError
from mnist_runtime.model.manifest import read_manifest

OLD = {"mnist.onnx": "old model", "mnist.uint8.onnx": "old, raw", "mnist.torchscript.pt": "same in both"}
NEW = {"mnist.onnx": "new model", "mnist.pt2": "new format", "mnist.torchscript.pt": "same in both"}

PUBLISHER = """
import json, os, signal, sys
from mnist_export.publishing import File, publish

folder, checkpoint, files, deadline = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
writes = 0

def count(event, arguments):
    global writes
    changes = event in {"os.rename", "os.remove", "os.mkdir"}
    if event == "open":
        changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if changes:
        writes += 1
        if writes == deadline:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
record = {"format": "onnx", "input": {"dtype": "float32"}}
publish(folder, {"checkpoint": {"sha256": checkpoint * 64}}, [File(n, d.encode(), record) for n, d in files.items()])
"""


def _files(contents: dict[str, str]) -> list[File]:
    return [File(n, text.encode(), {"format": "onnx", "input": {"dtype": "float32"}}) for n, text in contents.items()]


def _made_from(digit: str) -> dict[str, object]:
    return {"checkpoint": {"sha256": digit * 64}}


def _publish_and_die(run, folder: Path, checkpoint: str, contents: dict[str, str], at: int) -> int:
    return run("python", "-c", PUBLISHER, folder, checkpoint, json.dumps(contents), at).returncode


def _verified(folder: Path) -> dict[str, str]:
    """Return the contents of the listed files; raise if they were not published together."""
    manifest = read_manifest(folder)
    return {name: manifest.read(name).decode() for name in manifest.files}


def _state(folder: Path) -> str:
    """Return "old" or "new" if that set verifies, otherwise the state that a reader is told."""
    try:
        found = _verified(folder)
    except FileMissingError:
        return "nothing"
    except ManifestError as error:
        return "interrupted" if "was interrupted" in str(error) else str(error)
    return {True: "old", False: "new"}[found == OLD] if found in (OLD, NEW) else f"a mixture: {found}"


def _visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_published_files_are_listed_and_verify(tmp_path: Path):
    manifest = publish(tmp_path / "made", _made_from("a"), _files(OLD))
    assert _verified(tmp_path / "made") == OLD
    assert manifest.checkpoint == "a" * 64
    assert _visible(tmp_path / "made") == {*OLD, "manifest.json"}


def test_files_of_another_checkpoint_are_removed(tmp_path: Path):
    publish(tmp_path, _made_from("a"), _files(OLD))
    publish(tmp_path, _made_from("b"), _files(NEW))
    assert _verified(tmp_path) == NEW
    assert _visible(tmp_path) == {*NEW, "manifest.json"}


def test_files_of_the_same_checkpoint_stay_listed(tmp_path: Path):
    publish(tmp_path, _made_from("a"), _files(OLD))
    publish(tmp_path, _made_from("a"), _files(NEW))
    assert _verified(tmp_path) == {**OLD, **NEW}


def test_a_damaged_file_of_the_same_checkpoint_is_removed(tmp_path: Path):
    publish(tmp_path, _made_from("a"), _files(OLD))
    (tmp_path / "mnist.uint8.onnx").write_text("old, bad")
    publish(tmp_path, _made_from("a"), _files(NEW))
    assert _verified(tmp_path) == NEW
    assert "mnist.uint8.onnx" not in _visible(tmp_path)


def test_files_that_no_manifest_lists_are_left_alone(tmp_path: Path):
    (tmp_path / "mnist.safetensors").write_text("weights")
    (tmp_path / "mnist.pt2").write_text("somebody else's")
    publish(tmp_path, _made_from("a"), _files(OLD))
    assert _visible(tmp_path) == {*OLD, "manifest.json", "mnist.safetensors", "mnist.pt2"}


def test_a_manifest_that_cannot_be_read_is_replaced(tmp_path: Path):
    (tmp_path / "manifest.json").write_text("{")
    publish(tmp_path, _made_from("a"), _files(OLD))
    assert _verified(tmp_path) == OLD


def test_killed_at_any_write_the_folder_holds_the_old_set_or_the_new_or_neither(run, tmp_path: Path):
    outcomes, at, status = [], 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        at += 1
        folder = tmp_path / str(at)
        publish(folder, _made_from("a"), _files(OLD))
        status = _publish_and_die(run, folder, "b", NEW, at)
        outcomes.append(_state(folder))
        publish(folder, _made_from("b"), _files(NEW))
        assert _verified(folder) == NEW, f"publishing again after a kill at write {at}"
        assert _visible(folder) == {*NEW, "manifest.json"}
        assert not list(folder.glob(".mnist*.tmp")), f"temporary files of a kill at write {at} are not removed"
    assert status == 0
    assert outcomes == sorted(outcomes, key=["old", "interrupted", "new"].index)
    assert {"old", "interrupted", "new"} == set(outcomes)
    assert len(outcomes) > 12


def test_killed_at_any_write_of_a_first_export_the_folder_is_empty_interrupted_or_complete(run, tmp_path: Path):
    outcomes, at, status = [], 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        at += 1
        status = _publish_and_die(run, tmp_path / str(at), "b", NEW, at)
        outcomes.append(_state(tmp_path / str(at)))
    assert status == 0
    assert outcomes == sorted(outcomes, key=["nothing", "interrupted", "new"].index)


COMMAND = """
import os, signal, sys
from mnist_export.cli import export

event, name, at = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))

def kill(found, arguments):
    global at
    if found == event and any(name in str(argument) for argument in arguments):
        at -= 1
        if not at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
export()
"""


def test_a_killed_mnist_export_leaves_a_whole_set_or_an_interrupted_manifest_and_can_run_again(
    run, trained, tmp_path: Path
):
    """Kill it while it stages, between two renames, before the last rename, and after it."""
    command = (trained / "mnist.safetensors", "--format", "onnx", "--output-dir")
    publish(tmp_path / "folder", _made_from("a"), _files(OLD))
    for event, name, at, wanted in (
        ("open", ".manifest.json.", 1, "old"),
        ("os.rename", ".mnist.onnx.", 1, "interrupted"),
        ("os.rename", ".manifest.json.", 2, "interrupted"),
    ):
        killed = run("python", "-c", COMMAND, event, name, at, *command, tmp_path / "folder")
        assert killed.returncode == -signal.SIGKILL
        assert _state(tmp_path / "folder") == wanted
    killed = run("python", "-c", COMMAND, "os.remove", ".mnist.onnx.", 1, *command, tmp_path / "new")
    assert killed.returncode == -signal.SIGKILL
    assert read_manifest(tmp_path / "new").read("mnist.onnx")
    assert run("mnist-export", *command, tmp_path / "folder").returncode == 0
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"mnist.onnx", "manifest.json", LOCK}


def test_two_exporters_at_once_do_not_interleave(tmp_path: Path):
    sets = {checkpoint: {f"mnist.{n}.onnx": f"{checkpoint} {n}" for n in range(20)} for checkpoint in "abcd"}
    processes = [
        subprocess.Popen([sys.executable, "-c", PUBLISHER, str(tmp_path), name, json.dumps(contents), "0"])
        for name, contents in sets.items()
    ]
    assert [process.wait() for process in processes] == [0] * len(sets)
    assert _verified(tmp_path) in sets.values()


def test_an_exporter_that_waits_too_long_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from filelock import FileLock\n"
         "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()", str(tmp_path / LOCK)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    monkeypatch.setattr(publishing, "_TIMEOUT", 0.1)
    with pytest.raises(BusyError, match="another mnist-export is publishing"):
        publish(tmp_path, _made_from("a"), _files(OLD))
    holder.communicate()
    publish(tmp_path, _made_from("a"), _files(OLD))


def test_a_file_that_cannot_be_staged_leaves_the_old_set(tmp_path: Path):
    publish(tmp_path, _made_from("a"), _files(OLD))
    (tmp_path / "blocked").write_text("a file, where a folder is needed")
    with pytest.raises(FileWriteError, match="cannot write"):
        publish(tmp_path, _made_from("b"), _files({**NEW, "blocked/mnist.onnx": "nowhere"}))
    assert _verified(tmp_path) == OLD


def test_nothing_behind_a_link_out_of_the_folder_is_removed_verified_or_replaced(tmp_path: Path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    publish(folder, _made_from("a"), _files({**OLD, "sub/thesis.txt": "years of work"}))
    (folder / "sub").rename(outside)
    (folder / "sub").symlink_to(outside)
    publish(folder, _made_from("a"), _files(OLD))
    assert _verified(folder) == OLD
    with pytest.raises(FileWriteError, match=r"sub is a link out of .*; remove it"):
        publish(folder, _made_from("b"), _files({**NEW, "sub/thesis.txt": "none"}))
    assert _verified(folder) == OLD
    assert (outside / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["mnist.onnx", "mnist.uint8.onnx", "mnist.pt2", "manifest.json"])
def test_a_folder_in_the_place_of_a_file_is_reported_before_anything_changes(tmp_path: Path, name: str):
    """The folder is in the place of a file that is kept, removed or new."""
    publish(tmp_path, _made_from("a"), _files(OLD))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(FileWriteError, match=f"{name}, because it is a folder; remove it"):
        publish(tmp_path, _made_from("b"), _files(NEW))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    (tmp_path / name).rmdir()
    publish(tmp_path, _made_from("b"), _files(NEW))
    assert _verified(tmp_path) == NEW


def test_pipes_and_files_in_the_wrong_place_do_not_stop_an_export(tmp_path: Path):
    """A pipe instead of the manifest, a file instead of a listed file's folder, a folder named as a temporary file."""
    publish(tmp_path, _made_from("a"), _files({**OLD, "sub/mnist.onnx": "deep"}))
    (tmp_path / "sub" / "mnist.onnx").unlink()
    (tmp_path / "sub").rmdir()
    (tmp_path / "sub").write_text("a file")
    (tmp_path / ".mnist.onnx.0000.tmp").mkdir()
    publish(tmp_path, _made_from("b"), _files(NEW))
    assert _verified(tmp_path) == NEW
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    publish(tmp_path, _made_from("a"), _files(OLD))
    assert _verified(tmp_path) == OLD


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(FileWriteError, match="cannot lock"):
        publish(tmp_path / "folder", _made_from("a"), _files(OLD))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_lock_that_cannot_be_made_is_reported(tmp_path: Path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(FileWriteError, match="cannot lock"):
        publish(tmp_path, _made_from("a"), _files(OLD))


def test_equal_sets_give_equal_manifests(tmp_path: Path):
    for name in "one", "two":
        publish(tmp_path / name, _made_from("a"), _files(OLD))
    digests = {hashlib.sha256((tmp_path / name / "manifest.json").read_bytes()).hexdigest() for name in ("one", "two")}
    assert len(digests) == 1
