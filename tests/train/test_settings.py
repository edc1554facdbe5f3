"""Settings: every one is an option, a TOML file can hold them, and flags win over the file."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from mnist_train.checkpoint import load
from mnist_train.settings import TrainingSettings

SHORT = "epochs = 1\nlr = 0.25\nbatch-size = 128\n"


def test_the_printed_config_is_the_defaults(run):
    result = run("mnist-train", "--print-config")
    assert tomllib.loads(result.stdout.decode()) == asdict(TrainingSettings())


def test_the_printed_config_reproduces_the_run(run, few, tmp_path):
    flags = ("--data", few, "--lr", "0.125", "--shuffle", "--seed", "7", "--epochs", "1", "--device", "cpu")
    printed = run("mnist-train", *flags, "--print-config")
    (tmp_path / "train.toml").write_bytes(printed.stdout)
    assert run("mnist-train", *flags, "--output-dir", tmp_path / "flags").returncode == 0
    config = ("--config", tmp_path / "train.toml", "--output-dir", tmp_path / "config")
    assert run("mnist-train", *config).returncode == 0
    first, second = (load(tmp_path / name / "mnist.safetensors") for name in ("flags", "config"))
    assert first.sha256 == second.sha256


def test_flags_win_over_the_file(run, tmp_path):
    (tmp_path / "train.toml").write_text(SHORT)
    result = run("mnist-train", "--lr", "0.75", "--config", tmp_path / "train.toml", "--print-config")
    values = tomllib.loads(result.stdout.decode())
    assert (values["lr"], values["epochs"], values["batch_size"], values["seed"]) == (0.75, 1, 128, 0)


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        ("epochs = ", 1, b"is not TOML"),
        ("epoch = 3", 1, b"sets epoch, which mnist-train does not know"),
        ("epochs = 0", 2, b"--epochs"),
        ("lr = -1", 2, b"--lr"),
        ('lr = "fast"', 1, b"sets lr to 'fast', and it takes a number"),
        ("lr = [1]", 1, b"sets lr to [1], and it takes a number"),
        ("lr = true", 1, b"sets lr to True, and it takes a number"),
        ("epochs = 1.5", 1, b"sets epochs to 1.5, and it takes a whole number"),
        ("epochs = true", 1, b"sets epochs to True, and it takes a whole number"),
        ("output_dir = 5", 1, b"sets output_dir to 5, and it takes text"),
        ("shuffle = 1", 1, b"sets shuffle to 1, and it takes true or false"),
        ("batch-size = 1\nbatch_size = 2", 1, b"sets both batch-size and batch_size"),
        ("", 1, b"is empty"),
        ("epochs = " + "9" * 5000, 1, b"is not TOML"),
        ("epochs = " + "[" * 2000, 1, b"is not TOML"),
        (".".join("a" * 40_000) + " = 1", 1, b"is larger than 16,384 bytes"),
        ('output_dir = ""', 1, b"sets output_dir to an empty text; give a value, or remove the line"),
        ('output_dir = "a\\u0000b"', 1, b"embedded null byte"),
        ('optimizer = "sgd"\nmomentum = nan', 2, b"'--momentum': nan is not a finite number"),
        ("lr = 1" + "0" * 400, 2, b"'--lr': 100000000000000000...0000000000000000000 is not a finite number"),
        (None, 1, b"does not exist"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(run, tmp_path, content, code, sentence):
    path = tmp_path / "train.toml"
    if content is not None:
        path.write_text(content)
    result = run("mnist-train", "--config", path)
    assert result.returncode == code
    assert sentence in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--momentum", "0.9"), b"--momentum belongs to --optimizer sgd"),
        (("--optimizer", "adamw", "--momentum", "0.9"), b"--momentum belongs to --optimizer sgd"),
        (("--weight-decay", "0.1"), b"--weight-decay belongs to --optimizer sgd or adamw"),
        (("--lr", "nan"), b"is not a finite number"),
        (("--device", "tpu"), b"is not auto|cpu|cuda|cuda:N|mps"),
        (("--device", "cuda:x"), b"is not auto|cpu|cuda|cuda:N|mps"),
    ],
)
def test_a_wrong_command_line_exits_with_2(run, flags, sentence):
    result = run("mnist-train", *flags)
    assert result.returncode == 2
    assert sentence in result.stderr


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_missing_device_is_refused_in_one_sentence(run, device, tmp_path):
    import torch

    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    result = run("mnist-train", "--device", device, "--output-dir", tmp_path)
    assert result.returncode == 1
    assert f"--device {device} was asked for".encode() in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_mnist_train_takes_the_recipe_of_the_cnn(run):
    recipe = Path(__file__).parents[2] / "recipes" / "cnn.toml"
    result = run("mnist-train", "--config", recipe, "--print-config")
    assert result.returncode == 0, result.stderr
    assert tomllib.loads(result.stdout.decode()) == asdict(TrainingSettings(**tomllib.loads(recipe.read_text())))
