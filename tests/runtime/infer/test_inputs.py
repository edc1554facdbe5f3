"""Inputs of mnist-infer: folders, globs, archives, images and standard input; a bad file stops no other."""

import fcntl
import gzip
import io
import json
import os
import struct
import subprocess
import sys
import termios
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnist_runtime
from mnist_runtime import DigitError
from mnist_runtime.infer.inputs import Reading, chunks

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(test_split, tmp_path_factory):
    """A folder with the digits 7 2 1 0 4 in files of every kind, one bad file, one of another kind, and a subfolder."""
    folder = tmp_path_factory.mktemp("folder")
    np.save(folder / "a.npy", test_split.images[0])
    np.savez_compressed(folder / "b.npz", x=test_split.images[1:3], y=test_split.labels[1:3])
    Image.fromarray(255 - test_split.images[3]).resize((200, 200)).save(folder / "c.png")
    (folder / "d.npy").write_bytes(b"no digits")
    (folder / "notes.txt").write_text("not for us")
    (folder / ".hidden.npy").write_bytes(b"nor this")
    (folder / "deeper").mkdir()
    np.save(folder / "deeper" / "e.npy", test_split.images[4:5] / 256)
    return folder


def labels(result):
    return [json.loads(line)["label"] for line in result.stdout.splitlines()]


def test_a_folder_is_read_in_order_and_a_bad_file_does_not_end_it(run, folder):
    result = run("mnist-infer", folder, "--format", "jsonl")
    assert labels(result) == [7, 2, 1, 0]
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith(b"Error")]
    assert b"d.npy" in line
    assert f"{folder}: left out 1 file of other kinds\n".encode() in result.stderr
    assert labels(run("mnist-infer", folder, "--recursive", "--format", "jsonl")) == [7, 2, 1, 0, 4]


def test_a_quoted_glob_is_expanded(run, folder):
    result = run("mnist-infer", f"{folder}/[ab].np*", "--format", "jsonl")
    assert (result.returncode, labels(result)) == (0, [7, 2, 1])
    result = run("mnist-infer", f"{folder}/**/e.npy", "-r", "--format", "jsonl")
    assert (result.returncode, labels(result)) == (0, [4])
    assert b"matches no file" in run("mnist-infer", f"{folder}/*.gif").stderr


def test_a_folders_gif_tiff_and_jfif_are_read(run, test_split, tmp_path):
    picture = Image.fromarray(255 - test_split.images[0]).resize((200, 200))
    picture.save(tmp_path / "a.gif")
    picture.save(tmp_path / "b.tif")
    picture.save(tmp_path / "c.jfif", "JPEG")
    result = run("mnist-infer", tmp_path, "--format", "jsonl")
    assert labels(result) == [7, 7, 7]
    assert b"left out" not in result.stderr


def test_a_folders_idx_csv_and_gzipped_files_are_read_and_its_labels_left_out(run, test_split, tmp_path):
    images = test_split.images[:5]
    for name, data in {
        "a-images-idx3-ubyte": idx(images[:1]),
        "a-labels-idx1-ubyte": idx(test_split.labels[:1]),
        "b.idx3-ubyte.gz": gzip.compress(idx(images[1:2])),
        "c.csv": csv(images[2:3]),
        "d.CSV.GZ": gzip.compress(csv(images[3:4])),
        "e.npy.gz": gzip.compress(npy(images[4:5])),
    }.items():
        (tmp_path / name).write_bytes(data)
    result = run("mnist-infer", tmp_path, "--format", "jsonl")
    assert (result.returncode, labels(result)) == (0, [7, 2, 1, 0, 4])
    assert f"{tmp_path}: left out 1 file of other kinds\n".encode() in result.stderr


@pytest.mark.parametrize(
    ("name", "wanted", "source"), [("a.npy", [7], "-"), ("b.npz", [2, 1], "-:x"), ("c.png", [0], "-")]
)
def test_the_format_of_standard_input_is_recognised(run, folder, name, wanted, source):
    result = run("mnist-infer", "-", "--format", "jsonl", input=(folder / name).read_bytes())
    assert (result.returncode, labels(result)) == (0, wanted)
    assert json.loads(result.stdout.splitlines()[0])["source"] == source


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_whose_first_byte_comes_alone_is_read_whole(folder, pack):
    data, unread = pack((folder / "a.npy").read_bytes()), bytearray(4)
    command = [BIN / "mnist-infer", "-", "--format", "jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        process.stdin.write(data[:1])
        while fcntl.ioctl(process.stdin, termios.FIONREAD, unread) == 0 and any(unread):
            os.sched_yield()
        process.stdin.write(data[1:])
        process.stdin.close()
        assert json.loads(process.stdout.read())["label"] == 7


@pytest.mark.parametrize(("name", "wanted"), [("a.npy", [7]), ("b.npz", [2, 1]), ("c.png", [0])])
def test_a_fifo_is_read_like_standard_input(run, folder, tmp_path, name, wanted):
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["sh", "-c", 'cat "$0" > "$1"', folder / name, tmp_path / "fifo"]):
        result = run("mnist-infer", tmp_path / "fifo", "--format", "jsonl")
    assert (result.returncode, labels(result)) == (0, wanted)
    assert json.loads(result.stdout.splitlines()[0])["source"].startswith(str(tmp_path / "fifo"))


def test_a_process_substitution_is_read_and_an_empty_one_is_refused(run, folder):
    for substitution, code, wanted in ((f"cat {folder}/a.npy", 0, [7]), ("true", 1, [])):
        read, write = os.pipe()
        with subprocess.Popen(["sh", "-c", substitution], stdout=write):
            os.close(write)
            result = run("mnist-infer", f"/dev/fd/{read}", "--format", "jsonl", pass_fds=[read])
        os.close(read)
        assert (result.returncode, labels(result)) == (code, wanted)
        assert (b"is empty; give" in result.stderr) == bool(code)


def test_empty_inputs_and_folders_are_refused(run, tmp_path):
    assert b"standard input is empty" in run("mnist-infer", "-", input=b"").stderr
    assert b"holds no " in run("mnist-infer", tmp_path).stderr
    (tmp_path / "e.npy").touch()
    assert b"is empty" in run("mnist-infer", tmp_path / "e.npy").stderr


def test_an_archive_without_digits_or_damaged_is_refused(run, tmp_path):
    np.savez(tmp_path / "labels.npz", y=np.arange(5))
    assert b"holds no digits" in run("mnist-infer", tmp_path / "labels.npz").stderr
    data = io.BytesIO()
    np.savez_compressed(data, x=np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8))
    damaged = bytearray(data.getvalue())
    damaged[300] ^= 0xFF
    (tmp_path / "damaged.npz").write_bytes(damaged)
    result = run("mnist-infer", tmp_path / "damaged.npz")
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr


def test_an_archive_with_some_damaged_digits_fails_after_its_good_ones(run, test_split, tmp_path):
    good, bad = io.BytesIO(), io.BytesIO()
    np.save(good, test_split.images[:2])
    np.save(bad, test_split.images[2:4])
    for damaged in (bad.getvalue()[:-1], bad.getvalue().replace(b"\x01\x00v", b"\x09\x00v")):
        with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
            archive.writestr("a.npy", good.getvalue())
            archive.writestr("b.npy", damaged)
            archive.writestr("notes.txt", "none of ours")
        result = run("mnist-infer", "some.npz", "--format", "jsonl", cwd=tmp_path)
        assert (result.returncode, labels(result)) == (1, [7, 2])
        assert b"some.npz:b " in result.stderr


def test_globs_skip_folders_and_hidden_files(run, folder):
    (folder / "deeper").mkdir(exist_ok=True)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.npy").write_bytes(b"not looked at")
    assert b".hidden" not in run("mnist-infer", folder, "--recursive").stderr
    result = run("mnist-infer", "**", "--recursive", "--format", "jsonl", cwd=folder)
    assert b"is a folder" not in result.stderr


def test_an_archive_member_that_claims_too_many_digits_is_refused(run, tmp_path):
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    result = run("mnist-infer", tmp_path / "bomb.npz")
    assert (result.returncode, b"is cut short by" in result.stderr) == (1, True)


@pytest.fixture
def without_pillow(tmp_path):
    """Environment of a process that has all packages of this one except Pillow."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(np.__file__).parents[1].iterdir():
        if not entry.name.lower().startswith(("pil", "__pycache__")):
            (packages / entry.name).symlink_to(entry)
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (packages, Path(mnist_runtime.__file__).parents[1])))}


def test_without_pillow_an_image_is_refused_with_advice_and_arrays_are_read(folder, without_pillow):
    program = "from mnist_runtime.infer.cli import infer; infer()"
    command = [sys.executable, "-S", "-c", program, folder / "c.png", folder / "a.npy", "--format", "jsonl"]
    result = subprocess.run(command, env=without_pillow, capture_output=True, check=False, timeout=60)
    assert (result.returncode, labels(result)) == (1, [7])
    sentence = f"Error: {folder}/c.png: images need Pillow, which is not installed; run: pip install Pillow"
    assert sentence in result.stderr.decode().splitlines()
    chunks = f"list(s.chunks({str(folder / 'c.png')!r}, s.Reading()))"
    program = f"import mnist_runtime.infer.inputs as s\ntry: {chunks}\nexcept ImportError: pass"
    subprocess.run([sys.executable, "-S", "-c", program], env=without_pillow, check=True, timeout=60)


def test_show_draws_every_digit(run, folder):
    result = run("mnist-infer", folder / "b.npz", folder / "c.png", "--show")
    assert result.stdout.decode().count("█" * 5) >= 3
    assert b"c.png: 0 (" in result.stdout


def idx(array) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def csv(images) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in images.reshape(-1, 784).tolist()).encode()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("encode", [idx, csv, npy])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_formats_of_mnist_are_read_from_files_and_standard_input(test_split, tmp_path, encode, pack):
    data = pack(encode(test_split.images[:5]))
    (tmp_path / "digits").write_bytes(data)
    expected = test_split.images[:5].reshape(5, 784)
    assert np.array_equal(
        np.concatenate([digits for _, _, digits in chunks(str(tmp_path / "digits"), Reading())]), expected
    )
    command = [BIN / "mnist-infer", "-", "--format", "jsonl"]
    result = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    assert labels(result) == [7, 2, 1, 0, 4]


@pytest.mark.parametrize("content", [b"PAR1\x15\x04", b'{"a": 1}', b"hello", b"%PDF-1.7\n%\xe2\xe3", b"\x80\x04\x95"])
def test_an_unknown_format_is_refused_without_pillow(monkeypatch, tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "mnist_runtime.io.images", raising=False)
    with pytest.raises(DigitError, match=r"is of an unknown format|is no table of digits"):
        list(chunks(str(tmp_path / "x"), Reading()))


def test_the_pictures_of_a_zip_are_read_and_their_names_escaped(run, test_split, tmp_path):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for index in range(3):
            picture = io.BytesIO()
            Image.fromarray(255 - test_split.images[index]).resize((100, 100)).save(picture, "png")
            archive.writestr(f"scans\x1b[2J/{index}.png", picture.getvalue())
        archive.writestr("__MACOSX/scans/._0.png", b"junk")
        archive.writestr("notes.txt", b"not for us")
    result = run("mnist-infer", tmp_path / "scans.zip")
    assert [line[:1] for line in result.stdout.splitlines()] == [b"7", b"2", b"1"]
    assert b"scans.zip:scans\\x1b[2J/0.png[0]" in result.stdout
    assert b"\x1b" not in run("mnist-infer", tmp_path / "scans.zip", "--format", "csv").stdout


def test_the_refusal_of_a_zip_without_digits_lists_its_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a\x1b[2J.txt", b"text")
    with pytest.raises(DigitError, match=r"it holds a\\x1b\[2J\.txt, and neither a \.npy nor a picture"):
        list(chunks(str(tmp_path / "x.zip"), Reading()))


def test_a_damaged_member_or_a_name_that_is_not_text_is_refused(test_split, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("\u00e9.npy", npy(test_split.images[:5]))
    whole = (tmp_path / "x.npz").read_bytes()
    for damaged in (whole[:80] + b"\xff" * 40 + whole[120:], whole.replace("\u00e9".encode(), b"\xff\xff")):
        (tmp_path / "x.npz").write_bytes(damaged)
        with pytest.raises(DigitError, match=r"x\.npz is not a \.zip or \.npz file that can be read"):
            list(chunks(str(tmp_path / "x.npz"), Reading()))


@pytest.mark.parametrize(
    ("change", "flag", "sentence", "least"),
    [
        (lambda x: x > 127, "", "", 0.8),
        (lambda x: (x / 255).astype(np.uint8), "", "no intensity is above 1 of 255", 0),
        (lambda x: 255 - x, "", "the rims of the digits are bright", 0),
        (lambda x: 255 - x, "--invert", "", 0.8),
        (lambda x: 1 - x / 255, "--invert", "", 0.8),
        (lambda x: x.transpose(0, 2, 1), "--transpose", "", 0.8),
        (lambda x: x, "--invert", "the rims of the digits are bright", 0),
    ],
)
def test_arrays_are_turned_only_by_option(run, test_split, tmp_path, change, *, flag, sentence, least):
    np.save(tmp_path / "x.npy", change(test_split.images[:5000]))  # more than one chunk
    np.save(tmp_path / "y.npy", test_split.labels[:5000])
    result = run("mnist-infer", "x.npy", "--model", "linear", "--labels", "y.npy", *flag.split(), cwd=tmp_path)
    notes = [line for line in result.stderr.decode().splitlines() if line.startswith("x.npy: ")]
    assert [sentence in line for line in notes] == [True] * bool(sentence)
    share = float(result.stdout.split()[1].rstrip(b"%")) / 100
    assert share > least if least else share < 0.3


def test_a_pipe_in_a_folder_is_left_out_and_counted(run, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    assert b" holds no file among its 1 of " in run("mnist-infer", tmp_path).stderr
    os.mkfifo(folder / "deeper" / "pipe.npy")
    result = run("mnist-infer", folder / "deeper", "--format", "jsonl")
    assert labels(result) == [4]
    assert b"deeper: left out 1 file" in result.stderr


def test_labels_give_the_accuracy_and_the_share_answered(run, folder, tmp_path):
    np.save(tmp_path / "y.npy", np.array([7, 2, 1, 6]))
    paths = [folder / name for name in ("a.npy", "b.npz", "c.png")]
    result = run("mnist-infer", *paths, "--labels", tmp_path / "y.npy", "--model", "cnn")
    assert result.stdout.startswith(b"accuracy  75.00%  (3 of 4; 95 % interval 30.06% to 95.44%)")
    assert result.stdout.splitlines()[1] == b"answered  100.00%  (4 of 4; right among these: 75.00% (3))"
    unsure = run("mnist-infer", *paths, "--labels", tmp_path / "y.npy", "--model", "linear")
    assert unsure.stdout.splitlines()[1] == b"answered  25.00%  (1 of 4; right among these: 0.00% (0))"
    (tmp_path / "one.txt").write_text("7")
    unsure = run("mnist-infer", folder / "a.npy", "--labels", tmp_path / "one.txt", "--model", "linear")
    assert unsure.stdout.splitlines()[1] == b"answered  0.00%  (0 of 1)"
    advice = b"give exactly one label per digit"
    for wrong, sentence in (([7, 2, 1, 0, 0], advice), ([7], b"more digits than"), ([70], b"0-9")):
        np.save(tmp_path / "y.npy", np.array(wrong))
        result = run("mnist-infer", *paths, "--labels", tmp_path / "y.npy")
        assert result.returncode == 1
        assert sentence in result.stderr


def test_labels_are_not_matched_after_an_input_failed(run, folder, tmp_path):
    np.save(tmp_path / "y.npy", np.array([7, 2, 1]))
    paths = [folder / "a.npy", folder / "d.npy", folder / "b.npz"]  # 3 digits are read: as many as labels
    for more, sentence in (([], b"Error: 1 input failed, so"), ([tmp_path / "no.npy"], b"Error: 2 inputs failed, so")):
        result = run("mnist-infer", *paths, *more, "--labels", tmp_path / "y.npy")
        assert (result.returncode, result.stdout) == (1, b"")
        assert sentence in result.stderr
        assert b"d.npy" in result.stderr
