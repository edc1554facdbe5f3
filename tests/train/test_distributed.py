"""Training by torchrun: real processes over gloo reach the weights of one process, and recover from the loss of any."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mnist_train.checkpoint import load
from mnist_train.data import batches as room
from mnist_train.data.batches import Batches, InMemory, OnDisk
from mnist_train.data.bundled import Split
from mnist_train.data.disk import DiskArray
from mnist_train.distributed import ALONE, ProcessGroup, join
from mnist_train.errors import GroupError
from mnist_train.fit import evaluate
from mnist_train.models import build
from mnist_train.resumable import FILE, load_state
from mnist_train.run import TrainingRun
from mnist_train.settings import TrainingSettings

CHECKPOINT = "mnist.safetensors"
CPU = torch.device("cpu")
COUNT, HELD_OUT = 1985, 500
"""31 batches of 64 and one of a single digit, of which all ranks but one have nothing."""
BATCH, EPOCHS, LR = 64, 2, 0.02
U = 2.0**-24

Torchrun = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, train_split: Split, validation: Split) -> Path:
    """Real digits to be mapped."""
    folder = tmp_path_factory.mktemp("npy")
    for name, split, count in (("train", train_split, COUNT), ("valid", validation, HELD_OUT)):
        np.save(folder / f"x_{name}.npy", split.images[:count])
        np.save(folder / f"y_{name}.npy", split.labels[:count])
    return folder


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    """The same digits, to be read into memory."""
    np.savez(folder / "digits.npz", **{path.stem: np.load(path) for path in folder.glob("*.npy")})
    return folder / "digits.npz"


def launch(size: int, *words: object, restarts: int = 0) -> list[str]:
    return list(
        map(str, ["torchrun", "--standalone", f"--nproc-per-node={size}", f"--max-restarts={restarts}", *words])
    )


@pytest.fixture
def torchrun(run) -> Torchrun:
    """Run `torchrun -m mnist_train`, or a script in its place."""

    def torchrun(size: int, *args: object, script: Path | None = None, restarts: int = 0, **options: object):
        command = launch(size, *([script] if script else ["-m", "mnist_train"]), *args, restarts=restarts)
        return run(*command, timeout=300, **options)

    return torchrun


def arguments(data: Path, *more: object) -> tuple[object, ...]:
    return ("--device", "cpu", "--data", data, "--epochs", EPOCHS, "--lr", LR, "--batch-size", BATCH, *more)


def digits(data: Path, shuffle: int | None = None) -> Batches:
    if data.is_dir():
        return OnDisk(*(DiskArray.open(data / f"{axis}_train.npy") for axis in "xy"), CPU, shuffle)
    with np.load(data) as arrays:
        return InMemory(*Split(arrays["x_train"], arrays["y_train"]).tensors(), shuffle)


def first_weights() -> torch.Tensor:
    """Return weights and bias of the linear model before the first step, float64 `[10, 785]`."""
    torch.manual_seed(0)
    return flat(build("linear"))


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([model.lin.weight, model.lin.bias[:, None]], dim=1).detach().double()


def gamma(count: torch.Tensor | int) -> torch.Tensor | float:
    return count * U / (1 - count * U)


def exactly(batches: Batches) -> tuple[torch.Tensor, float]:
    """Return the weights of plain descent in float64, and a bound on the distance of float32 in any order of summation.

    docs/scale.md derives the bound, to first order in U.
    """
    weights, bound = first_weights(), 0.0
    for epoch in range(1, EPOCHS + 1):
        for pixels, labels in batches.epoch(epoch, BATCH):
            x = torch.cat([pixels.double(), torch.ones(len(pixels), 1)], dim=1)
            assert LR * (x**2).sum(1).mean() / 2 <= 2, "an error may grow from step to step"
            logits = x @ weights.T
            errors = torch.softmax(logits, 1) - F.one_hot(labels, 10)
            gradient = errors.T @ x / len(x)
            moved = weights - LR * gradient

            lit = (x > 0).sum(1, keepdim=True) + 1
            of_logits = (gamma(lit) * (x.abs() @ weights.abs().T)).norm(dim=1) / 2
            of_softmax = gamma(32 + 4 * (logits.max(1).values - logits.min(1).values))
            of_sum = gamma(len(x) + 16) * errors.norm(dim=1)
            of_gradient = ((of_logits + of_softmax + of_sum) * x.norm(dim=1)).mean()
            bound += float(LR * of_gradient + U * (moved.norm() + 2 * LR * gradient.norm()))
            weights = moved
    return weights, bound


def mean_of_means(batches: Batches, size: int) -> torch.Tensor:
    """Return the weights of descent by the mean of the ranks' mean gradients, which is wrong for uneven shares."""
    weights = first_weights().requires_grad_()
    for epoch in range(1, EPOCHS + 1):
        for pixels, labels in batches.epoch(epoch, BATCH):
            x = torch.cat([pixels.double(), torch.ones(len(pixels), 1)], dim=1)
            shares = (slice(*room.share(0, len(x), rank, size)) for rank in range(size))
            losses = [F.cross_entropy(x[rows] @ weights.T, labels[rows]) for rows in shares if len(x[rows])]
            (gradient,) = torch.autograd.grad(sum(losses) / size, weights)
            weights = (weights - LR * gradient).detach().requires_grad_()
    return weights.detach()


COUNTING = """
import atexit, collections, os
from mnist_train.data.disk import DiskArray
from mnist_train.cli import train

original, read = DiskArray.rows, collections.Counter()

def rows(self, first, stop):
    read[self.path.stem] += stop - first
    return original(self, first, stop)

DiskArray.rows = rows
atexit.register(lambda: open(f"{os.environ['COUNTS']}.{os.environ['RANK']}", "w").write(repr(dict(read))))
train()
"""
"""A program that runs mnist-train and counts the rows that it reads of each file."""


@pytest.fixture(scope="module")
def recipe(folder, archive) -> Callable[[int], tuple[Path, tuple[object, ...]]]:
    """Data and options by number of processes: in memory and on disk, in file order and shuffled."""
    recipes = {1: (folder, ("--shuffle",)), 2: (folder, ("--shuffle",)), 3: (archive, ())}
    return recipes.__getitem__


@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_number_of_processes_reaches_the_weights_of_one(run, torchrun, recipe, size, tmp_path):
    data, options = recipe(size)
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    env = {"COUNTS": str(tmp_path / "rows")}
    done = torchrun(size, *arguments(data, *options), "--output-dir", tmp_path / "many", script=script, env=env)
    assert done.returncode == 0, done.stderr
    alone = run("mnist-train", *arguments(data, *options), "--output-dir", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    many, one = (flat(load(tmp_path / name / CHECKPOINT).module) for name in ("many", "one"))
    exact, bound = exactly(digits(data, shuffle=0 if options else None))
    print(f"{size} processes: from one {(many - one).norm():.1e} of {2 * bound:.1e}, ", end="")
    print(f"from float64 {(many - exact).norm():.1e}, one {(one - exact).norm():.1e}, of {bound:.1e}")
    assert (many - one).norm() <= 2 * bound
    assert (many - exact).norm() <= bound
    if size == 3:
        assert (mean_of_means(digits(data), size) - exact).norm() > 2 * bound, "the bound must tell them apart"

    only_rank_0_speaks(done, alone, tmp_path)
    metrics = metrics_of_the_saved_weights(tmp_path / "many", data)
    of_one = metrics_of_last_epoch(tmp_path / "one")
    assert metrics["train_loss"] == pytest.approx(of_one["train_loss"], rel=1e-5)  # one rank's share differs by 1 %
    if data.is_dir():
        each_rank_read_its_part(tmp_path, size)


def only_rank_0_speaks(done, alone, folder: Path) -> None:
    printed, printed_alone = done.stdout.splitlines(), alone.stdout.splitlines()
    assert done.stderr == b""
    assert [line.split()[0] for line in printed] == [line.split()[0] for line in printed_alone]
    assert sorted(path.name for path in (folder / "many").iterdir()) == ["metrics.jsonl", CHECKPOINT]


def metrics_of_the_saved_weights(run: Path, data: Path) -> dict[str, float]:
    """Compare the last epoch's metrics with the saved weights: a count of digits, and a sum of 500 positive terms."""
    metrics = metrics_of_last_epoch(run)
    model = load(run / CHECKPOINT).module
    with np.load(data.parent / "digits.npz" if data.is_file() else data / "digits.npz") as arrays:
        loss, accuracy = evaluate(model, Split(arrays["x_valid"], arrays["y_valid"]).tensors())
    assert metrics["valid_accuracy"] == accuracy
    assert metrics["valid_loss"] == pytest.approx(loss, rel=2 * gamma(HELD_OUT))
    return metrics


def metrics_of_last_epoch(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[EPOCHS - 1])


def each_rank_read_its_part(folder: Path, size: int) -> None:
    for rank in range(size):
        read = eval((folder / f"rows.{rank}").read_text())  # what our own script wrote
        for name, count, passes in (("train", COUNT, EPOCHS), ("valid", HELD_OUT, EPOCHS + 1)):
            for axis, checks in (("x", 1), ("y", 2)):  # rank 0 alone goes through all: for SHA-256, and labels' range
                own = read[f"{axis}_{name}"] - (0 if rank else checks * count)
                assert abs(own - passes * count / size) <= passes, (rank, read)


@pytest.fixture
def on_disk(folder, monkeypatch) -> Callable[..., OnDisk]:
    """Digits on disk, in many small blocks."""
    monkeypatch.setattr(room, "_BLOCK_BYTES", 784 * 128)
    monkeypatch.setattr(room, "_BUFFER_BYTES", 4 * 784 * 128)
    x, y = (DiskArray.open(folder / f"{axis}_train.npy") for axis in "xy")
    return lambda shuffle=None, rank=0, ranks=1: OnDisk(x, y, CPU, shuffle, rank, ranks)


def in_memory(folder: Path) -> Callable[..., InMemory]:
    split = Split(np.load(folder / "x_train.npy"), np.load(folder / "y_train.npy")).tensors()
    return lambda shuffle=None, rank=0, ranks=1: InMemory(*split, shuffle, rank, ranks)


def rows(pixels: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    return sorted((row.numpy().tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True))


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("shuffle", [None, 3])
@pytest.mark.parametrize("start", [0, 3, 31, 32])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_ranks_shares_make_up_every_batch(folder, on_disk, kind, shuffle, start, ranks):
    make = on_disk if kind == "disk" else in_memory(folder)
    shares = [make(shuffle, rank, ranks).epoch(1, BATCH, start) for rank in range(ranks)]
    for whole, *parts in zip(make(shuffle).epoch(1, BATCH, start), *shares, strict=True):
        assert rows(*whole) == rows(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@pytest.mark.parametrize("shuffle", [None, 3])
def test_each_row_is_read_by_one_rank_only(on_disk, shuffle, monkeypatch):
    read: list[list[int]] = []
    original = DiskArray.rows

    def noting(self: DiskArray, first: int, stop: int):
        if len(self.shape) == 3:
            read[-1] += range(first, stop)
        return original(self, first, stop)

    monkeypatch.setattr(DiskArray, "rows", noting)
    for rank in range(3):
        read.append([])
        list(on_disk(shuffle, rank, 3).epoch(1, BATCH))
    assert sorted(chain.from_iterable(read)) == list(range(COUNT))
    assert max(map(len, read)) - min(map(len, read)) <= COUNT // BATCH + 1


KILL = """
import os, signal, sys
from pathlib import Path
from mnist_train import optimizers
from mnist_train.cli import train

rank, at, count = sys.argv.pop(1), int(sys.argv.pop(1)), 0
original = optimizers.TorchOptimizer.step

def step(self, lr):
    global count
    original(self, lr)
    count += 1
    if count == at and rank == os.environ["RANK"] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        Path(__file__).with_name("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

optimizers.TorchOptimizer.step = step
train()
"""
"""A program that runs mnist-train and, in its first start, kills a rank in a step."""


def test_a_killed_rank_changes_no_byte(torchrun, archive, folder, tmp_path):
    """Kill a rank of an MLP, whose gradients come in several pieces, and whose dropout differs between ranks."""
    size, epochs, steps, every, seed = 2, 2, 16, 3, random.randrange(2**32)
    draw = random.Random(seed)
    rank, step, data = draw.randrange(size), draw.randrange(1, epochs * steps + 1), draw.choice([archive, folder])
    print(f"seed {seed}: rank {rank} is killed in step {step} on {data.name}")
    script = tmp_path / "kill.py"
    script.write_text(KILL)
    args = ("--device", "cpu", "--data", data, "--model", "mlp", "--optimizer", "adamw", "--lr", 0.001)
    args = (*args, "--schedule", "cosine", "--shuffle", "--epochs", epochs, "--batch-size", -(-COUNT // steps))
    args = (*args, "--checkpoint-every", every)
    unbroken = torchrun(size, *args, "--output-dir", tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    broken = torchrun(size, rank, step, *args, "--output-dir", tmp_path / "broken", script=script, restarts=1)
    assert broken.returncode == 0, broken.stderr
    assert (tmp_path / "killed").exists(), "nothing was killed"
    assert b"Traceback" not in broken.stderr
    epoch, within = divmod(step - 1, steps)
    saved = within // every * every
    assert (f"resumed     at step {saved} of epoch {epoch + 1}".encode() in broken.stdout) == (step > every)
    for name in (CHECKPOINT, "metrics.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), (rank, step)


STOP = """
import os, signal, sys
from mnist_train import run
from mnist_train.cli import train

original, process = run.TrainingRun._save, getattr(os, sys.argv.pop(1))

def save(self):
    saved = original(self)
    if os.environ["RANK"] == "1" and self.position.epoch == 2:
        run.TrainingRun._save = original
        os.kill(process(), signal.SIGINT)
    return saved

run.TrainingRun._save = save
train()
"""
"""A program that runs mnist-train; once the first epoch is saved, one rank sends SIGINT to itself (getpid) or to
torchrun (getppid)."""


@pytest.fixture
def endless(folder, tmp_path) -> tuple[object, ...]:
    """Options of a run that has to be stopped."""
    return ("--data", folder, "--device", "cpu", "--epochs", 1000, "--output-dir", tmp_path)


def said_where_it_stopped(stderr: str, state: Path) -> None:
    assert stderr.count("Stopped after step") == 1, stderr
    assert f"continue with: torchrun ... -m mnist_train --resume {state}" in stderr


@pytest.fixture
def stopping(tmp_path) -> Path:
    script = tmp_path / "stop.py"
    script.write_text(STOP)
    return script


def test_a_signal_stops_all_ranks_after_the_same_step(run, torchrun, stopping, endless, tmp_path):
    """Send SIGINT to torchrun, which forwards it, as on Ctrl-C; any number of processes can continue the run."""
    stopped = torchrun(2, "getppid", *endless, script=stopping)
    assert stopped.returncode != 0
    said_where_it_stopped(stopped.stderr.decode(), tmp_path / FILE)
    state = load_state(tmp_path / FILE)
    assert {name for name in state.tensors if name.startswith("rng.")} == {"rng.cpu.0", "rng.cpu.1"}
    resumed = run("mnist-train", "--resume", tmp_path / FILE, "--epochs", state.epoch)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed     at step {state.step} of epoch {state.epoch}".encode() in resumed.stdout


def test_a_signal_to_one_rank_stops_all_and_all_can_continue(torchrun, stopping, endless, tmp_path):
    stopped = torchrun(3, "getpid", *endless, script=stopping)
    assert stopped.returncode != 0
    said_where_it_stopped(stopped.stderr.decode(), tmp_path / FILE)
    state = load_state(tmp_path / FILE)
    generators = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items() if name.startswith("rng.")}
    assert len(set(generators.values())) == len(generators) == 3, "they would drop out alike"
    resumed = torchrun(3, "--resume", tmp_path / FILE, "--epochs", state.epoch)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed     at step {state.step} of epoch {state.epoch}".encode() in resumed.stdout


ELSEWHERE = """
import os
from mnist_train.cli import train
if os.environ["RANK"] == "1":
    os.chdir("elsewhere")
train()
"""


def test_an_error_of_one_rank_stops_all_in_one_sentence(torchrun, archive, tmp_path):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here.npz").write_bytes(archive.read_bytes())
    failed = torchrun(2, "--data", "here.npz", "--device", "cpu", script=script, cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stdout == b""
    (complaint,) = [line for line in failed.stderr.decode().splitlines() if line.startswith("Error")]
    assert complaint.startswith("Error: rank 1: here.npz does not exist")


def test_an_error_of_all_ranks_is_printed_once(torchrun, tmp_path):
    refused = torchrun(2, "--device", "cuda", env={"CUDA_VISIBLE_DEVICES": ""}, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stdout == b""
    (complaint,) = [line for line in refused.stderr.decode().splitlines() if line.startswith("Error")]
    assert complaint.startswith("Error: --device cuda was asked for and torch finds no CUDA device")


def test_an_environment_that_contradicts_itself_is_refused_in_one_line(run, tmp_path):
    """The other contradictions are tested in test_torchrun_env.py."""
    refused = run("mnist-train", env={"RANK": "1", "LOCAL_RANK": "1"}, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith(b"Error: the environment sets LOCAL_RANK, RANK, as for one of several processes")
    assert refused.stderr.count(b"\n") == 1


class Unconnected(ProcessGroup):
    """A group whose errors do not wait for the other ranks."""

    together = staticmethod(nullcontext)


PAIR = Unconnected(rank=1, size=2, local_rank=1, local_size=2)
"""The second of two processes on a machine."""


def test_a_batch_of_fewer_digits_than_ranks_is_refused(archive, tmp_path):
    settings = TrainingSettings(data=str(archive), output_dir=str(tmp_path), device="cpu", batch_size=1)
    with pytest.raises(GroupError, match="2 processes share batches of 1 digits, which leaves some without any"):
        TrainingRun(settings, group=PAIR)


@pytest.fixture
def torchrun_environment(monkeypatch) -> None:
    """Set the environment that torchrun sets for the only process of a group."""
    words = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    for name, value in {**words, "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def group(torchrun_environment) -> Iterator[ProcessGroup]:
    """This process as a group of one."""
    with join() as group:
        yield group


def test_without_torchrun_a_process_is_alone():
    with join() as group:
        assert group is ALONE


def test_a_group_of_one_computes_as_a_single_process(group):
    assert (group.size, group.run_id) == (1, "none")
    values = torch.arange(3.0)
    assert torch.equal(group.sum(values), values)
    assert torch.equal(group.mean(values[2]), values[2])
    assert torch.equal(group.gather(values)[0], values)
    assert group.largest(15) == 15
    assert group.of_main({"x": "y"}) == {"x": "y"}
    with pytest.raises(GroupError, match="it"), group.together():
        raise GroupError("it")


def threads() -> list[str]:
    return [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the threads in /proc")
@pytest.mark.parametrize("error", [None, GroupError("it")])
def test_a_group_leaves_no_threads_behind(torchrun_environment, error):
    """A thread of PyTorch that still holds a tensor when the interpreter ends aborts the process."""

    def train(group: ProcessGroup) -> None:
        wrapped = group.wrap(build("linear"))
        deadline = time.monotonic() + 60
        while "pt_gloo_runloop" not in threads():  # a thread gives itself its name
            assert time.monotonic() < deadline
        if error:
            raise error
        del wrapped

    with suppress(GroupError), join() as group:
        train(group)
    assert "pt_gloo_runloop" not in threads()


MODULES = """
import torch
from torch import nn

class Moody(nn.Module):
    \"\"\"A module with a branch that is never used, one used in training only, and one used at random.\"\"\"

    def __init__(self):
        super().__init__()
        self.norm, self.always, self.never = nn.BatchNorm1d(784), nn.Linear(784, 10), nn.Linear(784, 10)
        self.in_training, self.by_chance = nn.Linear(784, 10), nn.Linear(784, 10)

    def forward(self, pixels):
        pixels = self.norm(pixels)
        logits = self.always(pixels)
        if self.training:
            logits = logits + self.in_training(pixels)
            if torch.rand(()) < 0.5:
                logits = logits + self.by_chance(pixels)
        return logits
"""


def test_a_users_module_may_leave_parameters_unused_and_normalise_batches(torchrun, archive, tmp_path, monkeypatch):
    (tmp_path / "moody.py").write_text(MODULES)
    args = ("--data", archive, "--device", "cpu", "--model", "moody:Moody", "--lr", 0.02, "--epochs", 2)
    done = torchrun(2, *args, "--batch-size", COUNT // 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    metrics = metrics_of_the_saved_weights(tmp_path / "artifacts", archive)
    assert metrics["valid_accuracy"] > 0.5  # after ten steps


@pytest.fixture
def start(torchrun_environment, monkeypatch, archive, tmp_path) -> Callable[[str, int, float], int]:
    """Start a run as torchrun would, save it in its second epoch, and return the epoch that it began in."""

    def start(run_id: str, restarts: int, lr: float) -> int:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        with join() as group:
            run = TrainingRun(
                TrainingSettings(data=str(archive), output_dir=str(tmp_path), device="cpu", lr=lr), group=group
            )
            began, run.position.epoch = run.position.epoch, 2
            run._save()
        return began

    return start


@pytest.mark.parametrize(
    ("before", "now", "taken_up"),
    [
        (("job-7", 0, LR), ("job-7", 0, LR), True),  # a torchrun that joined several machines late counts from 0
        (("job-7", 0, LR), ("job-8", 0, LR), False),
        (("job-7", 0, LR), ("job-7", 1, 2 * LR), False),
        (("none", 0, LR), ("none", 0, LR), False),  # torchrun's default, which does not tell runs apart
        (("none", 0, LR), ("none", 1, LR), True),
    ],
)
def test_a_run_continues_only_from_its_own_checkpoint(start, before, now, taken_up):
    assert start(*before) == 1
    assert start(*now) == (2 if taken_up else 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: NCCL gives each rank its own")
def test_nccl_reaches_the_weights_of_one_gpu(run, torchrun, archive, tmp_path):
    args = ("--device", "cuda", *arguments(archive)[2:])
    assert run("mnist-train", *args, "--output-dir", tmp_path / "one").returncode == 0
    done = torchrun(2, *args, "--output-dir", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = (flat(load(tmp_path / name / CHECKPOINT).module) for name in ("one", "two"))
    assert (two - one).norm() <= 2 * exactly(digits(archive))[1]
