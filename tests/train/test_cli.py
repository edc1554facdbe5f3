"""mnist-train and mnist-data as people run them."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from mnist_train import checkpoint
from mnist_train.data.bundled import DIGESTS


def test_training_writes_a_checkpoint_with_the_record_of_the_run(trained):
    loaded = checkpoint.load(trained / "mnist.safetensors")
    assert loaded.record["hyperparameters"] == {
        "optimizer": "plain",
        "lr": 0.5,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "augment": False,
        "average": 0.0,
        "label_smoothing": 0.0,
        "schedule": "constant",
        "epochs": 2,
        "batch_size": 64,
        "shuffle": False,
        "seed": 0,
    }
    assert loaded.record["data"] == {"name": "mnist", "sha256": DIGESTS}
    assert loaded.record["metrics"]["valid_accuracy"] == pytest.approx(0.917, abs=0.005)
    assert loaded.record["metrics"]["test_accuracy"] == pytest.approx(0.913, abs=0.005)
    assert set(loaded.record["versions"]) == {"mnist-edge", "torch"}


def test_metrics_have_a_line_per_epoch_and_one_for_the_test(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, None]
    assert lines[1]["valid_accuracy"] > 0.9
    assert lines[2]["test_accuracy"] > 0.9


def test_a_run_prints_its_progress(run, tmp_path):
    result = run("mnist-train", "--epochs", 1, "--batch-size", 500, "--seed", 7, cwd=tmp_path)
    lines = result.stdout.decode().splitlines()
    assert result.returncode == 0
    assert result.stderr == b""
    assert "50,000 digits" in lines[0]
    assert "guessing gives -ln(1/10) = 2.3026" in lines[1]
    assert lines[2].startswith("epoch  1/1")
    assert lines[3].startswith("test ")
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"mnist.safetensors", "metrics.jsonl"}


def test_another_seed_gives_another_file(run, trained, tmp_path):
    run("mnist-train", "--device", "cpu", "--seed", 1, "--output-dir", tmp_path)
    assert (tmp_path / "mnist.safetensors").read_bytes() != (trained / "mnist.safetensors").read_bytes()


@pytest.mark.parametrize(
    "args",
    [
        ("--lr", "nan"),
        ("--lr", "0"),
        ("--lr", "-1"),
        ("--lr", "inf"),
        ("--lr", "fast"),
        ("--epochs", "-1"),
        ("--epochs", "0"),
        ("--epochs", "1.5"),
        ("--batch-size", "0"),
        ("--seed", "-1"),
        ("--device", "toaster"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_names_it(run, tmp_path, args):
    result = run("mnist-train", *args, cwd=tmp_path)
    assert result.returncode == 2
    assert f"'{args[0]}'" in result.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_made_is_refused_before_training(run, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run("mnist-train", "--output-dir", tmp_path / "file")
    assert result.returncode == 1
    assert b"Training" not in result.stdout
    assert f"cannot write {tmp_path / 'file'}" in result.stderr.decode()
    assert (tmp_path / "file").read_text() == "kept"


def test_a_terminal_shows_progress_and_ctrl_c_leaves_the_old_checkpoint(terminal, tmp_path):
    (tmp_path / "mnist.safetensors").write_text("from before")
    training = terminal("mnist-train", "--epochs", 1000, "--output-dir", tmp_path)
    seen = training.read(until=", accuracy ")
    assert re.search(r"epoch \d+/1000, loss \d\.\d{3}, accuracy ", seen)
    training.process.send_signal(signal.SIGINT)
    seen = training.read()
    assert training.process.returncode == 130
    assert "Stopped after step" in seen
    assert "mnist-train --resume" in seen
    assert "Traceback" not in seen
    assert (tmp_path / "mnist.safetensors").read_text() == "from before"


def test_info_prints_shapes_counts_and_digests(run):
    said = run("mnist-data", "info").stdout.decode()
    assert all(digest in said for digest in DIGESTS.values())
    assert "(50000, 28, 28)" in said
    assert "train   4,932  5,678" in said


def test_show_draws_the_digit_asked_for(run):
    lines = run("mnist-data", "show", 7, "--split", "test").stdout.decode().splitlines()
    assert lines[-1] == "test[7] is a 9"
    assert sum(line.count("█") for line in lines[:14]) > 20


def test_show_without_an_index_is_random_and_repeatable(run):
    shown = [run("mnist-data", "show", "--seed", seed).stdout for seed in (3, 3, 4)]
    assert shown[0] == shown[1] != shown[2]
    assert run("mnist-data", "show").returncode == 0


def test_save_writes_a_digit_that_mnist_infer_reads(run, tmp_path, test_split):
    assert run("mnist-data", "save", 3, tmp_path / "zero.npy").returncode == 0
    assert np.array_equal(np.load(tmp_path / "zero.npy"), test_split.images[3])
    assert json.loads(run("mnist-infer", tmp_path / "zero.npy", "--format", "jsonl").stdout)["label"] == 0


@pytest.mark.parametrize("index", ["10000", "seven"])
def test_an_index_of_no_digit_is_a_usage_error(run, tmp_path, index):
    result = run("mnist-data", "save", index, tmp_path / "x.npy")
    assert result.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_describing_the_data_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from mnist_train.cli import data; data(['info'])"
    assert b"x_test" in subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["show", "-5"], 2, "there is no digit -5; test has digits 0 to 9999."),
        (["save", "-5", "x.npy", "--split", "train"], 2, "there is no digit -5; train has digits 0 to 49999."),
        (["show", "--sed", "3"], 2, "No such option '--sed'. Did you mean '--seed'?"),
        (["fetch", "file:///etc/hostname"], 1, "file:///etc/hostname is neither lab nor an http or https URL"),
    ],
)
def test_a_mistake_with_mnist_data_is_one_sentence(run, tmp_path, words, code, sentence):
    result = run("mnist-data", *words, cwd=tmp_path)
    assert result.returncode == code
    assert f"Error: {sentence}" in result.stderr.decode()
    assert not list(tmp_path.iterdir())
