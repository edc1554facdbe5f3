"""Training beside the lab's bare loop and the DataLoader idiom, and a large file on disk beside a small one.

Ratios are those of medians of alternating repeats in one run, so that a busy machine slows both sides alike. Exits with
1 if a bound is missed.
"""

import io
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _claim import Claim, report
from _process import measure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from mnist_train.data.bundled import BUNDLED, load_split
from mnist_train.fit import fit
from mnist_train.models import MNISTLogistic

REPEATS = 7
LR, EPOCHS, BATCH = 0.5, 2, 64

MOST_AGAINST_BARE_LOOP = 1.05
LEAST_AGAINST_DATALOADER = 2.0
MOST_PROCESS_TIME = 1.35
MOST_PROCESS_MEMORY = 1.3
MOST_OF_AN_EPOCH = 1.3
MOST_MEMORY_OF_A_LARGE_FILE = 150  # MiB more than of a small one
LARGE, SMALL = 4 * 2**30, 40 * 2**20  # bytes of images

SCRIPT = f"""
import numpy as np
import torch
import torch.nn.functional as F

arrays = np.load({str(BUNDLED)!r})
x_train, y_train = torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"]).long()
x_train = x_train.reshape(-1, 784).float() / 256
x_valid, y_valid = torch.from_numpy(arrays["x_valid"]), torch.from_numpy(arrays["y_valid"]).long()
x_valid = x_valid.reshape(-1, 784).float() / 256
model = torch.nn.Linear(784, 10)
for epoch in range({EPOCHS}):
    for i in range(0, len(x_train), {BATCH}):
        loss = F.cross_entropy(model(x_train[i : i + {BATCH}]), y_train[i : i + {BATCH}])
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= p.grad * {LR}
            model.zero_grad()
with torch.no_grad():
    print((model(x_valid).argmax(dim=1) == y_valid).float().mean())
"""
"""The plain script: import torch, load the same file, run the lab's bare loop, print the accuracy."""

TWO_EPOCHS = f"""
import numpy as np
import torch
import torch.nn.functional as F
from mnist_train.models import CNN

arrays = np.load({str(BUNDLED)!r})
x, y = torch.from_numpy(arrays["x_train"]).reshape(-1, 784).float() / 256, torch.from_numpy(arrays["y_train"]).long()
model = CNN()
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.02)
for epoch in range(2):
    for chosen in torch.randperm(len(x)).split(128):
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=0.02).backward()
        optimizer.step()
    print("epoch", epoch, flush=True)
"""
"""The bundled network in a plain script, as PyTorch's tutorials have it, on all cores and without augmentation."""


def bare_loop(x: torch.Tensor, y: torch.Tensor) -> None:
    """Run the lab's loop over nn.Linear, and nothing else."""
    model = MNISTLogistic()
    for _ in range(EPOCHS):
        for start in range(0, len(x), BATCH):
            loss = F.cross_entropy(model(x[start : start + BATCH]), y[start : start + BATCH])
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= p.grad * LR
                model.zero_grad()


def our_loop(x: torch.Tensor, y: torch.Tensor, valid: tuple[torch.Tensor, torch.Tensor]) -> None:
    with tqdm(total=EPOCHS * -(-len(x) // BATCH), leave=False, mininterval=0.2, file=io.StringIO()) as bar:
        fit(MNISTLogistic(), (x, y), valid, lr=LR, epochs=EPOCHS, batch_size=BATCH, on_step=bar.update)


def idiom(x: torch.Tensor, y: torch.Tensor) -> None:
    """Train with DataLoader and torch.optim.SGD, as tutorials do."""
    model: nn.Module = MNISTLogistic()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH)
    for _ in range(EPOCHS):
        for pixels, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), labels).backward()
            optimizer.step()


def alternate(*sides: Callable[[], float], repeats: int = REPEATS) -> list[float]:
    """Return the median of what each side returns, after one round to warm up."""
    rounds = [[side() for side in sides] for _ in range(repeats + 1)]
    return [statistics.median(results) for results in zip(*rounds[1:], strict=True)]


def timed(work: Callable[..., None], *args: object) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        work(*args)
        return time.perf_counter() - start

    return run


class Process:
    """A command, its wall time in seconds and its peak memory in MiB."""

    def __init__(self, *command: str) -> None:
        self.command = command
        self.memory = 0.0

    def __call__(self) -> float:
        """Run the command once; return its wall time."""
        usage = measure(*self.command)
        self.memory = usage.peak / 2**20
        return usage.wall


def second_epoch(*command: str) -> Callable[[], float]:
    """Return what runs a command and times its second epoch, by the lines that it prints at the end of an epoch."""

    def run() -> float:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            ends = [time.perf_counter() for line in process.stdout or () if line.startswith(b"epoch")]
        return ends[1] - ends[0]

    return run


def mapped(folder: Path, size: int) -> Path:
    """Make a folder of .npy files with `size` bytes of images, sparse on disk, and 10,000 digits to validate on."""
    folder.mkdir()
    count = size // 784
    for name, shape in (("x_train", (count, 28, 28)), ("y_train", (count,))):
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
    valid = load_split("valid")
    np.save(folder / "x_valid.npy", valid.images)
    np.save(folder / "y_valid.npy", valid.labels)
    return folder


def main() -> int:
    x, y = load_split("train").tensors()
    valid = load_split("valid").tensors()
    ours, bare, loader = alternate(timed(our_loop, x, y, valid), timed(bare_loop, x, y), timed(idiom, x, y))
    print(f"fit() {ours:.3f} s, the lab's bare loop {bare:.3f} s, DataLoader + SGD {loader:.3f} s")
    times = [f"{seconds:.3f} s" for seconds in (ours, bare, loader)]
    claims = [
        Claim("fit() / the lab's bare loop", times[0], times[1], ours / bare, MOST_AGAINST_BARE_LOOP),
        Claim("DataLoader + SGD / fit()", times[2], times[0], loader / ours, LEAST_AGAINST_DATALOADER, at_least=True),
    ]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        command = str(Path(sys.executable).parent / "mnist-train")
        process = Process(command, "--device", "cpu", "--output-dir", str(out / "run"))
        script = Process(sys.executable, "-c", textwrap.dedent(SCRIPT))
        process_time, script_time = alternate(process, script)
        print(f"mnist-train {process_time:.2f} s, {process.memory:.0f} MiB; the script {script_time:.2f} s,", end=" ")
        print(f"{script.memory:.0f} MiB")
        ours_theirs = f"{process_time:.2f} s", f"{script_time:.2f} s"
        claims.append(Claim("mnist-train / the script", *ours_theirs, process_time / script_time, MOST_PROCESS_TIME))
        ours_theirs = f"{process.memory:.0f} MiB", f"{script.memory:.0f} MiB"
        ratio = process.memory / script.memory
        claims.append(Claim("peak memory of both", *ours_theirs, ratio, MOST_PROCESS_MEMORY))
        recipe = str(Path(__file__).parents[1] / "recipes/cnn.toml")
        options = ["--config", recipe, "--epochs", "2", "--output-dir", str(out / "cnn")]
        ours, plain = alternate(
            second_epoch(command, *options), second_epoch(sys.executable, "-c", TWO_EPOCHS), repeats=3
        )
        what = "recipes/cnn.toml, an epoch / a plain script"
        claims.append(Claim(what, f"{ours:.1f} s", f"{plain:.1f} s", ours / plain, MOST_OF_AN_EPOCH))
        for shuffle in ([], ["--shuffle"]):
            peaks = []
            for size in (SMALL, LARGE):
                folder = mapped(out / f"{size}{len(shuffle)}", size)
                options = ["--epochs", "1", "--batch-size", "8192", "--lr", "0.01", "--output-dir", str(out / "mapped")]
                train = Process(command, "--device", "cpu", "--data", str(folder), *options, *shuffle)
                train()
                peaks.append(train.memory)
            print(f"peak memory on 40 MiB {peaks[0]:.0f} MiB, on 4 GiB {peaks[1]:.0f} MiB")
            more, most = peaks[1] - peaks[0], MOST_MEMORY_OF_A_LARGE_FILE
            what = f"4 GiB {'shuffled' if shuffle else 'in order'}, more / {most} MiB"
            claims.append(Claim(what, f"{more:.0f} MiB", f"{most} MiB", more / most, 1))
    return report(claims)


if __name__ == "__main__":
    sys.exit(main())
