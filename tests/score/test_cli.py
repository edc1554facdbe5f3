"""The command line of mnist-score: refusals, and the modules that it needs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.slow  # most of these commands import Ray


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere", "out"], 1, "nowhere does not exist; give a .parquet or .npy file, or a folder of them"),
        (["here", "out", "--model", "nowhere.onnx"], 1, "nowhere.onnx does not exist; give a .onnx file"),
        (["here", "out", "--address", "127.0.0.1:1"], 1, "the Ray at 127.0.0.1:1 cannot be joined ("),
        (["here", "out", "--actors", "0"], 2, "0 is not in the range x>=1"),
        (["here"], 2, "Missing argument 'OUTPUT'"),
        (["here", ""], 2, "Invalid value for 'OUTPUT': the value is empty; is a shell variable unset?"),
        (["here", "out", "--part", "1/2"], 2, "--part and --labels are for one .npy"),
        (["here", "out", "--labels", "y.npy"], 2, "--part and --labels are for one .npy"),
        (["here", "o.npy", "--actors", "2"], 2, "--actors and --address are for Ray"),
        (["here", "o.npy", "--address", "auto"], 2, "--actors and --address are for Ray"),
        (["here", "o.npy", "--part", "3/2"], 2, "'3/2' is not I/N, such as 1/8 to 8/8"),
        (["here", "o.npy", "--part", "0/2"], 2, "'0/2' is not I/N"),
        (["here", "o.npy", "--part", "1/" + "9" * 5000], 2, "is not I/N"),
        (["nowhere.npy", "o.npy"], 1, "nowhere.npy does not exist"),
        (["here", "x" * 300 + ".npy"], 1, "File name too long"),
        (["here", "digits.npy.txt"], 1, "digits.npy.txt cannot be listed ("),
        (["here", "s3://bucket/o.npy"], 2, "A .npy is read and written on this machine"),
    ],
)
def test_failures_end_in_one_sentence(run, test_split, tmp_path, arguments, code, sentence):
    np.save(tmp_path / "digits.npy", test_split.images[:10])
    (tmp_path / "digits.npy.txt").write_text("notes")
    arguments = [str(tmp_path / "digits.npy") if argument == "here" else argument for argument in arguments]
    result = run("mnist-score", *arguments, cwd=tmp_path)
    assert result.returncode == code
    assert sentence in result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == ["digits.npy", "digits.npy.txt"]


def test_an_output_that_cannot_be_written_is_refused_before_ray_is_started(test_split, tmp_path):
    np.save(tmp_path / "digits.npy", test_split.images[:10])
    code = (
        "import resource; from mnist_score.cli import score\n"
        "before = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))\n"
        "try: score()\n"
        "finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "digits.npy", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    *_, error_line = done.stderr.splitlines()
    assert error_line.startswith(f"Error: cannot write {tmp_path}/out (")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def without(tmp_path):
    """Run mnist-score where some modules are not installed."""

    def without(modules, *arguments):
        hide = "".join(f"sys.modules[{module!r}] = None; " for module in modules)
        code = f"import sys; {hide}from mnist_score.cli import score; score()"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return without


@pytest.mark.parametrize("module", ["ray", "pyarrow"])
def test_a_folder_without_the_extra_is_refused_with_advice(without, tmp_path, module):
    result = without([module], str(tmp_path), str(tmp_path / "out"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        'Error: scoring into a folder needs Ray, which is not installed; run: pip install "ray[data]" aiohttp; '
        "or give an OUTPUT that ends in .npy"
    )


def test_a_npy_is_scored_without_the_extra(without, test_split, tmp_path):
    np.save(tmp_path / "x.npy", test_split.images[:10])
    result = without(["ray", "pyarrow"], "x.npy", "labels.npy")
    assert result.returncode == 0, result.stderr
    assert len(np.load(tmp_path / "labels.npy")) == 10


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_neither_numpy_nor_ray(without, option):
    result = without(["ray", "pyarrow", "numpy", "onnxruntime", "tqdm"], option)
    assert result.returncode == 0, result.stderr
    assert "mnist-score" in result.stdout


def test_a_closed_stderr_stops_nothing(test_split, tmp_path):
    np.save(tmp_path / "x.npy", test_split.images[:10])
    result = subprocess.run(
        ["bash", "-c", 'exec "$0" x.npy labels.npy 2>&-', BIN / "mnist-score"], cwd=tmp_path, check=False, timeout=60
    )
    assert result.returncode == 0
    assert len(np.load(tmp_path / "labels.npy")) == 10
