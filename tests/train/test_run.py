"""Whole runs, as processes: the same seed gives the same bytes, however often the run is stopped and resumed."""

import json
import random
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_train.averaging import WeightAverage
from mnist_train.checkpoint import load
from mnist_train.errors import CheckpointError
from mnist_train.models import MLP
from mnist_train.optimizers import make_optimizer
from mnist_train.resumable import FILE, load_state

CHECKPOINT = "mnist.safetensors"


RECIPES = {
    "the lab's loop, shuffled": ("--shuffle",),
    "mlp, adamw, cosine": (
        *("--model", "mlp", "--optimizer", "adamw", "--weight-decay", "0.01"),
        *("--lr", "0.001", "--schedule", "cosine"),
    ),
    "cnn, augmented and averaged": (
        *("--model", "cnn", "--augment", "--optimizer", "adamw", "--lr", "0.005", "--schedule", "one-cycle"),
        *("--label-smoothing", "0.02", "--average", "0.9", "--shuffle"),
    ),
}


@pytest.fixture(scope="module", params=RECIPES, ids=list(RECIPES))
def recipe(request, few) -> tuple[object, ...]:
    return ("--device", "cpu", "--data", few, "--epochs", "2", *RECIPES[request.param])


@pytest.fixture(scope="module")
def uninterrupted(run, recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = run("mnist-train", *recipe, "--output-dir", folder)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", CHECKPOINT]
    return folder


def test_the_same_seed_gives_the_same_bytes(run, recipe, uninterrupted, tmp_path):
    assert run("mnist-train", *recipe, "--output-dir", tmp_path).returncode == 0
    for name in (CHECKPOINT, "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()


AT_STEP = """
import os, signal, sys
from mnist_train import optimizers
from mnist_train.cli import train

number, at, count = int(sys.argv.pop(1)), int(sys.argv.pop(1)), 0

def counting(kind):
    original = kind.step

    def step(self, lr):
        global count
        original(self, lr)
        count += 1
        if count == at:
            os.kill(os.getpid(), number)

    kind.step = step

counting(optimizers.Descent)
counting(optimizers.TorchOptimizer)
train()
"""
"""A program that runs mnist-train and sends itself a real signal in the step asked for."""


@pytest.fixture
def kill_at(run) -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    """Run mnist-train and send it the signal `number` in step `step`."""

    def kill_at(step: int, number: int, *args: object) -> "subprocess.CompletedProcess[bytes]":
        return run("python", "-c", AT_STEP, int(number), step, *args)

    return kill_at


def test_a_run_stopped_by_a_signal_resumes_to_the_same_bytes(kill_at, run, recipe, uninterrupted, tmp_path):
    step = random.randrange(1, 2 * 32)
    stopped = kill_at(step, signal.SIGTERM, *recipe, "--output-dir", tmp_path)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    state = tmp_path / FILE
    epoch, within = divmod(step - 1, 32)
    assert stopped.stderr.decode() == (
        f"Stopped after step {within + 1} of epoch {epoch + 1}; continue with: mnist-train --resume {state}\n"
    )
    assert not (tmp_path / CHECKPOINT).exists()
    resumed = run("mnist-train", "--resume", state)
    assert resumed.returncode == 0, resumed.stderr
    assert not state.exists()
    for name in (CHECKPOINT, "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes(), f"stopped at step {step}"


def test_a_run_killed_twice_resumes_to_the_same_bytes(kill_at, run, recipe, uninterrupted, tmp_path):
    """Each run continues from the last periodic checkpoint of the one that was killed at a random step."""
    state, done = tmp_path / FILE, ("--output-dir", tmp_path, "--checkpoint-every", 5)
    start: tuple[object, ...] = recipe
    for _ in range(2):
        killed = kill_at(random.randrange(6, 30), signal.SIGKILL, *start, *done)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not list(tmp_path.glob(CHECKPOINT))
        start = ("--resume", state)
    resumed = run("mnist-train", *start, *done)
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == (uninterrupted / CHECKPOINT).read_bytes()


AT_WRITE = """
import os, signal, sys
from mnist_train.cli import train

event, name = sys.argv.pop(1), sys.argv.pop(1)

def kill(found, arguments):
    if found == event and name in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
train()
"""
"""A program that runs mnist-train and kills itself when it is about to open, rename or remove a file."""


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("os.rename", "resume.safetensors"),
        ("os.rename", ".mnist.safetensors"),
        ("open", ".metrics.jsonl"),
        ("os.remove", f"/{FILE}"),
    ],
)
def test_a_resumed_run_killed_while_it_writes_resumes_to_the_same_bytes(kill_at, run, few, tmp_path, event, name):
    base = ("--device", "cpu", "--data", few, "--epochs", "2")
    assert run("mnist-train", *base, "--output-dir", tmp_path / "whole").returncode == 0
    assert kill_at(20, signal.SIGTERM, *base, "--output-dir", tmp_path / "parts").returncode == 128 + signal.SIGTERM
    resume = ("--resume", tmp_path / "parts" / FILE)
    assert run("python", "-c", AT_WRITE, event, name, *resume).returncode == -signal.SIGKILL
    resumed = run("mnist-train", *resume)
    assert resumed.returncode == 0, resumed.stderr
    contents = [{path.name: path.read_bytes() for path in (tmp_path / part).iterdir()} for part in ("whole", "parts")]
    assert contents[0] == contents[1]


def test_a_resumed_run_may_change_its_epochs_but_not_its_learning_rate(kill_at, run, few, tmp_path):
    base = ("--device", "cpu", "--data", few, "--output-dir", tmp_path)
    assert kill_at(3, signal.SIGINT, *base).returncode == 130
    other = run("mnist-train", "--resume", tmp_path / FILE, "--lr", "0.1")
    assert other.returncode == 2
    assert b"--lr was 0.5 before the interruption and cannot change" in other.stderr
    assert b"omit it, in --config too" in other.stderr
    longer = run("mnist-train", "--resume", tmp_path / FILE, "--epochs", "3")
    assert longer.returncode == 0, longer.stderr
    assert b"epoch  3/3" in longer.stdout


def test_a_resumed_run_refuses_epochs_that_would_make_it_another(kill_at, run, few, tmp_path):
    base = ("--device", "cpu", "--data", few, "--epochs", "4", "--output-dir")
    plain, cosine = tmp_path / "it's plain", tmp_path / "cosine"
    stopped = kill_at(100, signal.SIGINT, *base, plain)
    assert f"continue with: mnist-train --resume {shlex.quote(str(plain / FILE))}\n" in stopped.stderr.decode()
    begun = load_state(plain / FILE).epoch
    assert begun > 1
    fewer = run("mnist-train", "--resume", plain / FILE, "--epochs", begun - 1)
    assert fewer.returncode == 2
    assert f"--epochs is {begun - 1}, and the run has begun its epoch {begun}; give more.".encode() in fewer.stderr
    assert kill_at(3, signal.SIGINT, *base, cosine, "--schedule", "cosine").returncode == 130
    longer = run("mnist-train", "--resume", cosine / FILE, "--epochs", "5")
    assert longer.returncode == 2
    assert b"--epochs was 4 before the interruption and cannot change" in longer.stderr


def test_a_resumed_run_refuses_other_data(kill_at, run, few, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(few.read_bytes())
    assert kill_at(3, signal.SIGINT, "--data", path, "--output-dir", tmp_path).returncode == 130
    with np.load(few) as arrays:
        np.savez(path, **{**arrays, "x_train": arrays["x_train"][::-1]})
    result = run("mnist-train", "--resume", tmp_path / FILE)
    assert result.returncode == 1
    assert b"x_train is not that of the interrupted run" in result.stderr


@pytest.mark.parametrize("content", [b"no safetensors", None])
def test_a_file_that_is_no_resumable_checkpoint_is_refused(run, tmp_path, trained, content):
    path = trained / CHECKPOINT
    if content:
        path = tmp_path / FILE
        path.write_bytes(content)
    result = run("mnist-train", "--resume", path)
    assert result.returncode == 1
    assert b"is not a resumable checkpoint" in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_a_nan_loss_names_the_step_and_keeps_the_last_good_checkpoint(run, few, tmp_path):
    """A learning rate of 1e38 overflows within a few steps."""
    options = ("--data", few, "--device", "cpu", "--checkpoint-every", 1, "--output-dir", tmp_path)
    (tmp_path / CHECKPOINT).write_text("from before")
    result = run("mnist-train", "--lr", "1e38", *options)
    (complaint,) = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert "the loss is nan in epoch 1, step " in complaint
    assert "at learning rate 1e+38; start again with a lower --lr" in complaint
    assert (tmp_path / CHECKPOINT).read_text() == "from before"
    weights = {name: tensor for name, tensor in load_state(tmp_path / FILE).tensors.items() if "model" in name}
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_the_record_is_in_the_checkpoint_and_in_the_metrics(uninterrupted):
    record = load(uninterrupted / CHECKPOINT).record
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, None]
    assert lines[-1]["run"] == record
    assert record["hyperparameters"]["seed"] == 0
    assert set(record["data"]["sha256"]) == {"x_train", "y_train", "x_valid", "y_valid"}
    assert set(record["versions"]) == {"mnist-edge", "torch"}
    assert record["device"] == "cpu"
    assert record["metrics"]["valid_accuracy"] > 0.7


@pytest.mark.parametrize("shuffle", [(), ("--shuffle",)])
def test_a_run_on_data_on_disk_resumes_to_the_same_bytes(kill_at, run, few, tmp_path, shuffle):
    folder = tmp_path / "data"
    folder.mkdir()
    with np.load(few) as arrays:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
    base = ("--data", folder, "--device", "cpu", "--epochs", "3", *shuffle)
    assert run("mnist-train", *base, "--output-dir", tmp_path / "whole").returncode == 0
    assert kill_at(40, signal.SIGINT, *base, "--output-dir", tmp_path / "parts").returncode == 130
    assert run("mnist-train", "--resume", tmp_path / "parts" / FILE).returncode == 0
    whole, parts = (tmp_path / name / CHECKPOINT for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_resumable_checkpoint_of_another_model_does_not_fit(kill_at, few, tmp_path):
    assert kill_at(3, signal.SIGINT, "--data", few, "--output-dir", tmp_path).returncode == 130
    state, model = load_state(tmp_path / FILE), MLP()
    with pytest.raises(CheckpointError, match="does not fit"):
        state.restore(model, make_optimizer("plain", model.parameters()), WeightAverage(model, 0))


def test_a_resumable_checkpoint_that_contradicts_itself_is_refused(kill_at, few, tmp_path):
    assert kill_at(3, signal.SIGINT, "--data", few, "--output-dir", tmp_path).returncode == 130
    path = tmp_path / FILE
    for old, new in ((b'\\"step\\": 3', b'\\"step\\": 4'), (b'\\"momentum\\"', b'\\"momentux\\"')):
        broken = tmp_path / "broken"
        assert old in path.read_bytes()
        broken.write_bytes(path.read_bytes().replace(old, new))
        with pytest.raises(CheckpointError):
            load_state(broken)


THREADS_OF_A_RUN = """
import sys, torch
from mnist_train.run import TrainingRun
from mnist_train.settings import TrainingSettings
torch.set_num_threads(2)
TrainingRun(TrainingSettings(model=sys.argv[1], output_dir=sys.argv[2]))
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("model", "threads"), [("linear", 1), ("mlp", 2)])
def test_a_small_model_is_trained_by_one_thread(run, model, threads, tmp_path):
    assert int(run("python", "-c", THREADS_OF_A_RUN, model, tmp_path).stdout) == threads
