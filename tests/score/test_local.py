"""One .npy scored into one .npy: of any size, in parts, resumed after a kill, and without overwriting other files."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from mnist_runtime import Classifier, FileWriteError
from mnist_runtime.io.arrays import StoredArray
from mnist_score.local import CHUNK_BYTES, score

ROWS = CHUNK_BYTES // 784
"""Number of uint8 digits between two writes."""


@pytest.fixture(scope="module")
def digits(test_split, tmp_path_factory):
    """A file of 50,000 digits, a little more than three chunks."""
    path = tmp_path_factory.mktemp("digits") / "digits.npy"
    np.save(path, np.tile(test_split.images, (5, 1, 1)))
    return path


@pytest.fixture(scope="module")
def wanted(digits):
    return Classifier("linear").predict(np.load(digits))


def test_labels_stream_into_a_file_that_appears_whole(run, digits, wanted, tmp_path):
    result = run("mnist-score", digits, tmp_path / "labels.npy")
    assert result.returncode == 0, result.stderr
    labels = np.load(tmp_path / "labels.npy", mmap_mode="r")
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, wanted)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.npy", "labels.npy.json"]
    assert result.stdout == b""
    assert b"\r" not in result.stderr  # no bar where there is no terminal


def test_complete_answers_are_kept_and_another_model_replaces_them(run, digits, exported, tmp_path):
    output = tmp_path / "labels.npy"
    assert run("mnist-score", digits, output).returncode == 0
    before = output.stat().st_mtime_ns, output.stat().st_ino
    again = run("mnist-score", digits, output)
    assert b"Nothing to do" in again.stderr
    assert (output.stat().st_mtime_ns, output.stat().st_ino) == before
    other = run("mnist-score", digits, output, "--model", exported / "mnist.uint8.onnx")
    assert b"Wrote" in other.stderr
    assert output.stat().st_mtime_ns > before[0]


def test_arrays_are_turned_by_option_and_answers_of_another_orientation_are_replaced(run, test_split, tmp_path):
    np.save(tmp_path / "x.npy", 255 - test_split.images[:1000].transpose(0, 2, 1))
    plain = run("mnist-score", "x.npy", "y.npy", cwd=tmp_path)
    assert b"x.npy: the rims of the digits are bright" in plain.stderr
    turned = run("mnist-score", "x.npy", "y.npy", "--invert", "--transpose", cwd=tmp_path)
    assert b"rims" not in turned.stderr
    assert b"Wrote" in turned.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), Classifier("linear").predict(test_split.images[:1000]))


def replace(path, data):
    (path.parent / "new").write_bytes(data)
    (path.parent / "new").replace(path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("torn", [0, 1, 3])
def test_a_killed_run_is_resumed_where_it_stopped(digits, wanted, tmp_path, torn):
    output, file, seen = tmp_path / "p.npy", StoredArray.open(digits), []

    def stop_in_the_second_chunk(count):
        seen.append(count)
        if sum(seen) > ROWS:
            raise Killed

    with Classifier("linear") as classifier:
        with pytest.raises(Killed):
            score(classifier, file, output, range(50_000), probabilities=True, advance=stop_in_the_second_chunk)
        assert not output.exists()
        with Path(f"{output}.part").open("r+b") as part:
            part.seek(-30, os.SEEK_END)
            part.write(bytes(30))  # as a power cut may leave the last write
            part.write(b"x" * torn)  # as a kill in the middle of the next leaves it
        seen.clear()
        assert score(classifier, file, output, range(50_000), probabilities=True, advance=seen.append)
        assert seen[0] == ROWS  # the last chunk is computed again
        assert sum(seen) == 50_000
        assert np.array_equal(np.load(output), classifier.predict_proba(np.load(digits)))
    assert np.array_equal(np.load(output).argmax(axis=1), wanted)


IN_THE_THIRD_CHUNK = """
import os, sys
from mnist_runtime import Classifier
from mnist_score.cli import score

number, count, original = int(sys.argv.pop(1)), 0, Classifier.compute

def compute(self, digits):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), number)
    return original(self, digits)

Classifier.compute = compute
score()
"""
"""A program that runs mnist-score and sends itself a real signal when two chunks are written."""


def test_sigkill_leaves_nothing_under_the_final_name_and_the_next_run_completes_it(run, digits, wanted, tmp_path):
    output, part = tmp_path / "labels.npy", tmp_path / "labels.npy.part"
    killed = run("python", "-c", IN_THE_THIRD_CHUNK, int(signal.SIGKILL), digits, output)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists()
    assert 2 * ROWS < part.stat().st_size < 3 * ROWS
    assert run("mnist-score", digits, output).returncode == 0
    assert not part.exists()
    assert np.array_equal(np.load(output), wanted)


@pytest.mark.parametrize(
    ("sig", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_run_with_one_sentence_and_no_result(run, digits, tmp_path, sig, code, word):
    stopped = run("python", "-c", IN_THE_THIRD_CHUNK, int(sig), digits, tmp_path / "labels.npy")
    assert stopped.returncode == code, stopped.stderr
    assert stopped.stderr.decode().endswith(f"Error: {word}; no file is left half-written under its final name\n")
    assert b"Traceback" not in stopped.stderr
    assert not (tmp_path / "labels.npy").exists()


def test_each_part_writes_its_own_file(run, digits, wanted, tmp_path):
    for index in (2, 1, 3):
        result = run("mnist-score", digits, tmp_path / "labels.npy", "--part", f"{index}/3")
        assert result.returncode == 0, result.stderr
    parts = [np.load(tmp_path / f"labels.{index}-of-3.npy") for index in (1, 2, 3)]
    assert np.array_equal(np.concatenate(parts), wanted)
    record = json.loads((tmp_path / "labels.2-of-3.npy.json").read_text())
    assert record["rows"] == [16_666, 33_333]


def test_the_output_reports_its_accuracy(run, digits, wanted, test_split, tmp_path):
    truth = np.tile(test_split.labels, 5)
    np.save(tmp_path / "truth.npy", truth)
    result = run("mnist-score", digits, tmp_path / "o.npy", "--labels", tmp_path / "truth.npy", "--part", "1/2")
    share = np.mean(wanted[:25_000] == truth[:25_000])
    assert result.stdout.decode().startswith(f"accuracy  {share:.2%}")
    np.save(tmp_path / "truth.npy", truth[:-1])
    result = run("mnist-score", digits, tmp_path / "o.npy", "--labels", tmp_path / "truth.npy")
    assert result.returncode == 1
    assert b"50,000 digits and 49,999 labels" in result.stderr


def test_an_archive_is_refused(run, test_split, tmp_path):
    np.savez(tmp_path / "x.npz", x=test_split.images[:2])
    result = run("mnist-score", "x.npz", "o.npy", cwd=tmp_path)
    assert result.returncode == 1
    sentence = (
        "x.npz is not a .npy file (it does not begin as one); give a .npy file as np.save writes it, or an IDX file"
    )
    assert result.stderr.decode().splitlines()[-1] == f"Error: {sentence}"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(digits, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileWriteError):
        score(Classifier("linear"), StoredArray.open(digits), tmp_path / "file" / "o.npy", range(10))


def test_a_single_digit_is_scored(test_split, tmp_path):
    classifier = Classifier("linear")
    np.save(tmp_path / "one.npy", test_split.images[0])
    score(classifier, StoredArray.open(tmp_path / "one.npy"), tmp_path / "one.out.npy", range(1))
    assert np.array_equal(np.load(tmp_path / "one.out.npy"), classifier.predict(test_split.images[:1]))


@pytest.mark.parametrize("output", ["x.npy", "y.npy", "symlink.npy", "hard.npy", "p.npy", "j.npy"])
def test_an_input_is_never_overwritten(run, test_split, tmp_path, output):
    source = {"p.npy": "p.npy.part", "j.npy": "j.npy.json"}.get(output, "x.npy")
    with (tmp_path / source).open("wb") as file:
        np.save(file, test_split.images[:10])
    np.save(tmp_path / "y.npy", test_split.labels[:10])
    (tmp_path / "symlink.npy").symlink_to(source)
    (tmp_path / "hard.npy").hardlink_to(tmp_path / source)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    result = run("mnist-score", source, output, "--labels", "y.npy", cwd=tmp_path)
    assert result.returncode == 1
    named = "y.npy" if output == "y.npy" else source
    sentence = f"Error: {named} is an input and would be overwritten; choose another OUTPUT\n"
    assert result.stderr.decode().endswith(sentence)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_model_is_never_overwritten(run, bundled, test_split, tmp_path):
    model = shutil.copy(bundled, tmp_path / "model.npy")
    np.save(tmp_path / "x.npy", test_split.images[:10])
    for named, env in ((["--model", model], {}), ([], {"MNIST_MODEL": str(model)})):
        result = run("mnist-score", tmp_path / "x.npy", model, *named, env=env)
        assert result.returncode == 1
        assert b"model.npy is an input and would be overwritten" in result.stderr
        assert model.read_bytes() == bundled.read_bytes()


@pytest.mark.parametrize("harm", ["cut", "flipped", "foreign", "empty"])
def test_a_result_that_is_damaged_or_not_ours_is_computed_again(run, test_split, tmp_path, harm):
    np.save(tmp_path / "x.npy", test_split.images[:100])
    output = tmp_path / "o.npy"
    assert run("mnist-score", tmp_path / "x.npy", output).returncode == 0
    whole = output.read_bytes()
    harmed = {"cut": whole[:-1], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "foreign": b"mine", "empty": b""}
    output.write_bytes(harmed[harm])
    assert b"Wrote" in run("mnist-score", tmp_path / "x.npy", output).stderr
    assert output.read_bytes() == whole
    assert b"Nothing to do" in run("mnist-score", tmp_path / "x.npy", output).stderr


@pytest.mark.parametrize("content", [b"my notes", b"{}", b"[1]", b'{"rows": [0, 5]}', b"\xff", b""])
@pytest.mark.parametrize("side", ["part", "json"])
def test_a_side_file_that_is_not_ours_is_kept(run, test_split, tmp_path, side, content):
    if side == "part" and not content:
        pytest.skip("an empty part is what a kill leaves")
    np.save(tmp_path / "x.npy", test_split.images[:100])
    foreign = tmp_path / f"o.npy.{side}"
    foreign.write_bytes(content)
    result = run("mnist-score", "x.npy", tmp_path / "o.npy", cwd=tmp_path)
    assert result.returncode == 1
    assert b"move it away, or choose another OUTPUT\n" in result.stderr
    assert b"Traceback" not in result.stderr
    assert foreign.read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"o.npy.{side}", "x.npy"]


@pytest.mark.parametrize("rewrite", [Path.write_bytes, replace], ids=["in place", "anew"])
def test_other_digits_of_the_same_name_size_and_time_are_scored_again(run, test_split, tmp_path, rewrite):
    np.save(tmp_path / "x.npy", test_split.images[:100])
    np.save(tmp_path / "y.npy", test_split.images[100:200])
    output, status = tmp_path / "o.npy", (tmp_path / "x.npy").stat()
    assert run("mnist-score", tmp_path / "x.npy", output).returncode == 0
    rewrite(tmp_path / "x.npy", (tmp_path / "y.npy").read_bytes())
    os.utime(tmp_path / "x.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert b"Wrote" in run("mnist-score", tmp_path / "x.npy", output).stderr
    assert np.array_equal(np.load(output), Classifier("linear").predict(test_split.images[100:200]))


def test_a_part_of_another_job_is_replaced(run, test_split, tmp_path):
    np.save(tmp_path / "x.npy", test_split.images[:100])
    output = tmp_path / "o.npy"
    assert run("mnist-score", tmp_path / "x.npy", output).returncode == 0
    output.rename(f"{output}.part")
    result = run("mnist-score", tmp_path / "x.npy", output, "--probabilities")
    assert result.returncode == 0, result.stderr
    assert np.load(output).shape == (100, 10)


def test_a_pipe_is_refused(run, tmp_path):
    result = run("mnist-score", "/dev/stdin", tmp_path / "o.npy", input=b"digits")
    assert result.returncode == 1
    assert b"/dev/stdin is a pipe or a device, not a file; " in result.stderr
    assert not list(tmp_path.iterdir())


def test_folders_and_pipes_are_never_replaced(run, test_split, tmp_path):
    np.save(tmp_path / "x.npy", test_split.images[:10])
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "fifo.npy")
    os.mkfifo(tmp_path / "o.npy.part")
    os.mkfifo(tmp_path / "p.npy.json")
    before = sorted(file.name for file in tmp_path.iterdir())
    for output, named in {
        "folder.npy": "folder.npy",
        "fifo.npy": "fifo.npy",
        "o.npy": "o.npy.part",
        "p.npy": "p.npy.json",
    }.items():
        result = run("mnist-score", "x.npy", output, cwd=tmp_path)
        assert result.returncode == 1
        assert f"Error: {named} is a folder or a device, and must be a file; " in result.stderr.decode()
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    assert (tmp_path / "fifo.npy").is_fifo()


def test_a_part_that_another_run_is_writing_is_refused(digits, wanted, tmp_path):
    output, file = tmp_path / "labels.npy", StoredArray.open(digits)

    def come_too_late(_):
        with pytest.raises(FileWriteError, match=r"another run is writing .*; wait for its end"):
            score(classifier, file, output, range(50_000))

    with Classifier("linear") as classifier:
        assert score(classifier, file, output, range(50_000), advance=come_too_late)
    assert np.array_equal(np.load(output), wanted)


def test_memory_does_not_depend_on_the_dtype(test_split, tmp_path):
    np.save(tmp_path / "x.npy", test_split.images[:5000] / 256)
    seen = []
    with Classifier("linear") as classifier:
        score(classifier, StoredArray.open(tmp_path / "x.npy"), tmp_path / "o.npy", range(5000), advance=seen.append)
    assert max(seen) == CHUNK_BYTES // (784 * 8)
    assert sum(seen) == 5000


def test_a_terminal_gets_a_bar(terminal, digits, tmp_path):
    seen = terminal("mnist-score", digits, tmp_path / "labels.npy").read()
    assert "labels.npy: 100%|" in seen
    assert "50.0k/50.0k" in seen
