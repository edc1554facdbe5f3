"""mnist-infer and mnist-parity as people run them: real processes, real files."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from mnist_runtime import Classifier, FileReadError, __version__
from mnist_runtime.bundled import BUNDLED


@pytest.fixture
def folder(tmp_path, test_split) -> Path:
    """A folder without artifacts: a file of one digit, one of many, and a broken one."""
    np.save(tmp_path / "seven.npy", test_split.images[0])
    np.save(tmp_path / "many.npy", test_split.images[:5])
    (tmp_path / "broken.npy").write_bytes(b"not a digit")
    return tmp_path


def test_one_digit_is_drawn_with_its_probabilities(run, folder):
    result = run("mnist-infer", "seven.npy", "--model", "linear", "--max-error", "0.01", cwd=folder)
    lines = result.stdout.decode().splitlines()
    assert result.returncode == 0
    assert any("▀" in line or "█" in line for line in lines[:14])
    assert any(line.rstrip().endswith("99.84%") and "7  ███" in line for line in lines)
    assert lines[-1] == "seven.npy: 7 (99.84%)"
    assert max(map(len, lines)) <= 80
    assert b"\x1b" not in result.stdout
    assert result.stderr == b""


def test_the_chosen_model_is_printed_unless_it_is_named(run, folder):
    result = run("mnist-infer", "seven.npy", cwd=folder)
    choice = f"Using the bundled model cnn (no {Path('artifacts/mnist.onnx')} here)"
    assert result.stderr.decode() == f"{choice}: it read 99.50% of the validation digits right.\n"
    named = run("mnist-infer", "seven.npy", cwd=folder, env={"MNIST_MODEL": "linear"})
    assert named.stderr == b"Using linear ($MNIST_MODEL): it read 91.67% of the validation digits right.\n"
    assert named.stdout == run("mnist-infer", "seven.npy", "--model", "linear", cwd=folder).stdout != result.stdout


def test_verdicts_are_printed_in_words(run, folder):
    dash = np.zeros((28, 28), np.uint8)
    dash[13:16, 4:24] = 255
    np.save(folder / "dash.npy", dash)
    lines = run("mnist-infer", "dash.npy", cwd=folder).stdout.decode().splitlines()
    assert lines[-1].startswith("dash.npy: that is no digit (")
    unsure = run("mnist-infer", "seven.npy", "--model", "linear", cwd=folder).stdout.decode().splitlines()
    assert unsure[-1] == "seven.npy: I am not sure; perhaps 7 (99.84%)"
    both = run("mnist-infer", "dash.npy", "seven.npy", cwd=folder).stdout.decode().splitlines()
    assert both[0].endswith("  dash.npy[0]  no digit")
    assert both[1].endswith("  seven.npy[0]")
    unsure = run("mnist-infer", "many.npy", "--model", "linear", cwd=folder).stdout.decode().splitlines()
    assert unsure[0].endswith("  many.npy[0]  unsure")


def test_verdicts_are_coloured_in_a_terminal(terminal, folder):
    assert "\x1b[33munsure\x1b[0m" in terminal("mnist-infer", "many.npy", "--model", "linear", cwd=folder).read()
    shown = terminal("mnist-infer", "seven.npy", "--model", "linear", cwd=folder).read()
    assert "\x1b[33mI am not sure; perhaps 7 (99.84%)\x1b[0m" in shown


@pytest.mark.parametrize(
    ("max_error", "code", "sentence"),
    [
        ("0.00001", 1, b"states no risk as low as max_error=1e-05: its least is 0.001"),
        ("0", 2, b"0.0 is not in the range"),
        ("2", 2, b"2.0 is not in the range"),
        ("nan", 2, b"'nan' is not a finite number"),
    ],
)
def test_a_max_error_that_cannot_be_kept_is_refused(run, folder, max_error, code, sentence):
    result = run("mnist-infer", "seven.npy", "--model", "linear", "--max-error", max_error, cwd=folder)
    assert (result.returncode, result.stdout) == (code, b"")
    assert sentence in result.stderr


def test_the_package_run_as_a_module_is_mnist_infer(folder):
    command = [sys.executable, "-m", "mnist_runtime", "seven.npy", "--format", "jsonl"]
    result = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60)
    assert json.loads(result.stdout)["label"] == 7
    usage = subprocess.run([*command[:3]], capture_output=True, check=False, timeout=60)
    assert (usage.returncode, usage.stderr.startswith(b"Usage: mnist-infer ")) == (2, True)


def test_each_of_many_digits_gets_a_line(run, folder):
    result = run("mnist-infer", "many.npy", "seven.npy", "--model", "linear", "--max-error", "1", cwd=folder)
    assert [line[0] for line in result.stdout.decode().splitlines()] == list("721047")
    assert result.stdout.decode().splitlines()[2] == "1   98.06%  many.npy[2]"


def test_other_files_are_answered_when_one_fails(run, folder):
    result = run("mnist-infer", "broken.npy", "many.npy", "absent.npy", "--format", "json", cwd=folder)
    assert result.returncode == 1
    assert [row["label"] for row in json.loads(result.stdout)] == [7, 2, 1, 0, 4]
    errors = result.stderr.decode().splitlines()[1:]
    assert [line.split()[:2] for line in errors] == [["Error:", "broken.npy"], ["Error:", "absent.npy"]]


def test_nothing_answered_is_still_valid_output(run, folder):
    result = run("mnist-infer", "broken.npy", "--format", "json", cwd=folder)
    assert (result.returncode, json.loads(result.stdout)) == (1, [])
    empty = np.empty((0, 28, 28), np.uint8)
    np.save(folder / "none.npy", empty)
    result = run("mnist-infer", "none.npy", cwd=folder)
    assert (result.returncode, result.stdout) == (0, b"")


@pytest.mark.parametrize("args", [[], ["x.npy", "--format", "yaml"], ["--frobnicate"]])
def test_wrong_usage_exits_2(run, args):
    result = run("mnist-infer", *args)
    assert result.returncode == 2
    assert b"Usage: mnist-infer" in result.stderr


@pytest.mark.parametrize(
    ("command", "args", "named"),
    [
        ("mnist-infer", [""], "PATH..."),
        ("mnist-infer", ["seven.npy", ""], "PATH..."),
        ("mnist-infer", ["seven.npy", "--model="], "--model"),
        ("mnist-infer", ["seven.npy", "--model", ""], "--model"),
        ("mnist-parity", [""], "[MODEL|FOLDER]"),
    ],
)
def test_an_empty_argument_is_refused(run, folder, command, args, named):
    result = run(command, *args, cwd=folder)
    assert result.returncode == 2
    (sentence,) = (line for line in result.stderr.decode().splitlines() if line.startswith("Error"))
    assert sentence.startswith(f"Error: Invalid value for '{named}'")
    assert sentence.endswith("the value is empty; is a shell variable unset?")
    assert {path.name for path in folder.iterdir()} == {"seven.npy", "many.npy", "broken.npy"}


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((32, 32), np.uint8), "(32, 32)"),
        (np.full((28, 28), np.nan), "NaN"),
        (np.full((28, 28), 7.0), "divide 0-255 intensities by 256"),
        (np.array(["seven"]), "save uint8 or float numbers"),
    ],
)
def test_wrong_digits_are_refused_in_one_sentence_that_names_the_file(run, tmp_path, array, sentence):
    np.save(tmp_path / "wrong.npy", array)
    result = run("mnist-infer", "wrong.npy", cwd=tmp_path)
    (_, error_line) = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert error_line.startswith("Error: wrong.npy")
    assert sentence in error_line


def test_the_model_is_chosen_by_flag_then_environment_then_folder(run, folder, exported):
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / "mnist.onnx").write_bytes((exported / "mnist.onnx").read_bytes())
    sentence = run("mnist-infer", "seven.npy", cwd=folder).stderr.decode()
    assert sentence.startswith(f"Using {Path('artifacts/mnist.onnx')} (found here): it read 91.67%")
    env = {"MNIST_MODEL": str(exported / "mnist.uint8.onnx")}
    sentence = run("mnist-infer", "seven.npy", cwd=folder, env=env).stderr.decode()
    assert sentence.startswith(f"Using {exported / 'mnist.uint8.onnx'} ($MNIST_MODEL): it read 91.67%")
    flagged = run("mnist-infer", "seven.npy", "--model", exported / "mnist.onnx", cwd=folder, env=env)
    assert (flagged.returncode, flagged.stderr) == (0, b"")


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_model_that_cannot_be_used_exits_1_and_is_named(run, folder, content):
    if content is not None:
        (folder / "bad.onnx").write_bytes(content)
    for command in (["mnist-infer", "seven.npy", "--model", "bad.onnx"], ["mnist-parity", "bad.onnx"]):
        result = run(*command, cwd=folder)
        (error_line,) = result.stderr.decode().splitlines()
        assert result.returncode == 1
        assert error_line.startswith("Error: bad.onnx ")
        assert error_line.endswith("give a .onnx file that mnist-export wrote")


def test_a_closed_pipe_ends_the_command_quietly(folder, test_split):
    np.save(folder / "all.npy", test_split.images)
    command = f"'{Path(sys.executable).parent / 'mnist-infer'}' all.npy --format csv"
    script = f"set -o pipefail; {command} | head -n 1"
    result = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, check=False, timeout=60)
    assert result.returncode == 0
    assert result.stdout.startswith(b"schema,source,index,verdict,label")
    assert b"Traceback" not in result.stderr
    assert b"Error" not in result.stderr


@pytest.mark.parametrize(("args", "status", "rows"), [(["absent.npy"], 1, 2), ([], 0, 2), (["--top-k", "11"], 2, 0)])
def test_a_reader_of_stderr_that_left_changes_neither_answers_nor_exit_code(folder, args, status, rows):
    read, write = os.pipe()
    os.close(read)
    command = [Path(sys.executable).parent / "mnist-infer", "seven.npy", "--format", "csv", *args]
    result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=write, check=False, timeout=60)
    os.close(write)
    assert (result.returncode, result.stdout.count(b"\n")) == (status, rows)


def test_an_error_begins_with_the_name_of_the_file_even_if_its_sentence_contains_it(run, folder):
    np.save(folder / "bad.npy", np.full((28, 28), np.nan, np.float32))
    (folder / "bad.npy").rename(folder / "a")
    assert run("mnist-infer", "a", cwd=folder).stderr.decode().splitlines()[-1].startswith("Error: a: there is a NaN")


def test_an_impossible_file_name_is_refused_and_other_files_are_answered(run, folder):
    for name in ("x" * 300, "seven.npy/x.npy"):
        result = run("mnist-infer", name, "seven.npy", "--format", "csv", cwd=folder)
        assert result.returncode == 1
        assert b"seven.npy,0,digit,7," in result.stdout
        (error_line,) = [line for line in result.stderr.decode().splitlines() if line.startswith("Error")]
        assert error_line.startswith(f"Error: {name} ")
    result = run("mnist-infer", "seven.npy", "--model", "x" * 300, cwd=folder)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1].startswith("Error: ")
    with pytest.raises(FileReadError, match="null byte"):
        Classifier("a\0b")


@pytest.mark.parametrize(
    ("line", "status", "sentence"),
    [
        (
            "mnist-infer seven.npy > /dev/full",
            1,
            "Error: standard output cannot be written (No space left on device); ",
        ),
        ("mnist-infer seven.npy --format json > /dev/full", 1, "Error: standard output cannot be written"),
        ("mnist-infer seven.npy >&-", 0, ""),
        ("mnist-infer - <&-", 1, "Error: standard input is empty; "),
        ("mnist-infer seven.npy 2>&-", 0, ""),
        ("PYTHONIOENCODING=ascii mnist-infer seven.npy", 0, ""),
        ("set -o pipefail; mnist-infer --help | true", 0, ""),
        ("set -o pipefail; mnist-infer --version | true", 0, ""),
        ("mnist-infer - 0> /dev/null", 1, "Error: standard input cannot be read (Bad file descriptor); "),
    ],
)
def test_full_closed_and_ascii_streams_cause_no_traceback(folder, line, status, sentence):
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, check=False, timeout=60)
    assert result.returncode == status, result.stderr
    assert sentence in result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert b"Exception" not in result.stderr


def test_the_version_names_engine_and_models(run):
    lines = run("mnist-infer", "--version").stdout.decode().splitlines()
    files = [file for files in BUNDLED.values() for file in files]
    assert lines == [
        f"mnist-infer, version {__version__}",
        f"onnxruntime {onnxruntime.__version__}",
        *(f"{file.name} sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files),
    ]


@pytest.mark.parametrize("args", [["--show", "--format", "json"], ["--labels", "y.npy", "--top-k", "2"]])
def test_options_that_would_do_nothing_are_refused(run, folder, args):
    result = run("mnist-infer", "seven.npy", *args, cwd=folder)
    assert (result.returncode, result.stdout) == (2, b"")


@pytest.mark.parametrize("command", ["mnist-infer", "mnist-parity"])
def test_commands_keep_blas_to_one_thread(command, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    code = (
        f"from mnist_runtime.{command[6:]}.cli import {command[6:]} as command\n"
        "try: command(['nowhere'])\nfinally: import os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines()[-1] == "1"


def test_a_terminal_gets_greys_unless_no_color_is_set(terminal, folder):
    assert "\x1b[38;5;" in terminal("mnist-infer", "seven.npy", cwd=folder).read()
    assert "\x1b" not in terminal("mnist-infer", "seven.npy", cwd=folder, env={"NO_COLOR": "1"}).read()


def test_a_terminal_as_standard_input_is_refused_with_advice(terminal, folder):
    assert "pipe a file into it" in terminal("mnist-infer", "-", cwd=folder).read()


@pytest.mark.parametrize("command", ["mnist-infer", "mnist-parity"])
def test_help_and_version_need_neither_numpy_nor_onnxruntime(command):
    for flag, expected in (("--help", "Exit codes"), ("--version", __version__)):
        code = (
            "import sys; sys.modules['numpy'] = sys.modules['onnxruntime'] = sys.modules['PIL'] = None; "
            f"from mnist_runtime.{command[6:]}.cli import {command[6:]} as command; command(['{flag}'])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert expected in done.stdout
