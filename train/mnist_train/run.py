"""One training run: from settings to a checkpoint, by way of everything that can interrupt it."""

import json
import math
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from tqdm import tqdm

from mnist_runtime import __version__
from mnist_runtime.io.files import ensure_writable, write_atomically
from mnist_train import checkpoint
from mnist_train.data.batches import Batches, InMemory, OnDisk
from mnist_train.data.bundled import Split
from mnist_train.data.download import byte_bar
from mnist_train.data.sources import MappedSplit, open_source
from mnist_train.distributed import ALONE, Group
from mnist_train.errors import DataError, DeviceError, DivergenceError, GroupError
from mnist_train.fit import CHANCE_LOSS, Epoch, Position, evaluate, fit
from mnist_train.models import build
from mnist_train.optimizers import SCHEDULES, make_optimizer
from mnist_train.plots import require_matplotlib
from mnist_train.resumable import FILE, State, load_state, save_state
from mnist_train.settings import Settings
from mnist_train.trackers import Tracker, Untracked, make_tracker

FILES = ("mnist.safetensors", "metrics.jsonl")
"""What a run leaves in its output folder."""

THREADS_PAY_FROM = 100_000
"""Parameters: between the linear model's 7,850 and the MLP's 936,330, which two threads train a third faster."""


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """A signal came, and the step it found is finished."""

    def __init__(self, signal_number: int, position: Position, state: Path | None, command: str) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(
            f"Stopped after step {position.step} of epoch {position.epoch}; "
            + (f"go on with: {command} --resume {state}" if state else "the loss was no number, so nothing was saved")
        )


class Run:
    """A model, its data and where its training stands; in a group, one at each rank."""

    def __init__(
        self,
        settings: Settings,
        resumed: State | None = None,
        echo: Callable[[str], object] = print,
        group: Group = ALONE,
    ) -> None:
        """Load data and model, and put them where `resumed` left them; everything that can be wrong is wrong here.

        Raises:
            MnistRuntimeError: a subclass that says what cannot be had.
        """
        self.settings = settings
        self.echo = echo
        self.group = group
        self.folder = Path(settings.output_dir)
        with group.together():
            self.device = choose_device(settings.device, group)
            self.tracker = Untracked() if group.rank else self._outputs()
            with byte_bar() as progress:
                self.data = open_source(
                    settings.data, sha256=settings.sha256 or None, checked=group.rank > 0, progress=progress
                )
            _require_digits_for_all(len(self.data.train), settings.batch_size, group)
            torch.manual_seed(settings.seed)
            self.model = build(settings.model).to(self.device)
            digests = {} if group.rank else dict(self.data.digests())
        self.digests = group.of_main(digests)
        _choose_threads(self.model)
        self.optimizer = make_optimizer(
            settings.optimizer,
            self.model.parameters(),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        if group.rank:
            torch.manual_seed(settings.seed + group.rank)  # dropout must not leave out the same at every rank
        self.position = Position()
        with group.together():
            if resumed := self._before_the_restart() or resumed:
                _require_same(resumed.data, self.digests)
                self.position = resumed.restore(self.model, self.optimizer, self.device, group.rank)
        self.trained = group.wrap(self.model)

    def _outputs(self) -> Tracker:
        """See that everything can be written that will be."""
        ensure_writable(self.folder)
        if self.settings.report:
            require_matplotlib()
            ensure_writable(self.settings.report)
        return make_tracker(self.settings.tracker, self.folder, self.settings)

    def _before_the_restart(self) -> State | None:
        """What this same run left behind, if torchrun has started it anew."""
        if not self.group.of_main(self.group.restarted and self.state.exists()):
            return None
        left = load_state(self.state)
        return left if (left.run_id, left.settings) == (self.group.run_id, self.settings) else None

    def train(self) -> None:
        """Train to the end, and write the checkpoint, the metrics and what else was asked for.

        Raises:
            Stopped: by SIGINT or SIGTERM; a resumable checkpoint is there.
            DivergenceError: the loss is no number any more; the last good resumable checkpoint is kept.
        """
        train = self._batches(self.data.train, self.settings.seed if self.settings.shuffle else None)
        valid = self._batches(self.data.valid)
        self._introduce(len(train), valid)
        steps = math.ceil(len(train) / self.settings.batch_size)
        done = (self.position.epoch - 1) * steps + self.position.step
        with (
            _Signals() as signals,  # first: whoever sees the bar may stop the run
            tqdm(
                total=self.settings.epochs * steps,
                initial=done,
                unit=" steps",
                leave=False,
                disable=not sys.stderr.isatty(),
                mininterval=0.2,
            ) as bar,
        ):
            history = self._fit(train, valid, bar, signals)
        tested = self._test()
        if self.group.rank == 0:
            self._finish(history, tested)

    def _introduce(self, count: int, valid: Batches) -> None:
        parameters = sum(p.numel() for p in self.model.parameters())
        where = f"{self.group.size} processes, {self.device.type}" if self.group.size > 1 else self.device
        self.echo(f"Training {self.settings.model} of {parameters:,} parameters on {count:,} digits ({where}).")
        if self.position.history or self.position.step:
            self.echo(f"resumed     at step {self.position.step} of epoch {self.position.epoch}")
        else:
            loss, _ = evaluate(self.trained, valid, self.group)
            self.echo(f"untrained   validation loss {loss:.4f}; guessing gives -ln(1/10) = {CHANCE_LOSS:.4f}")
        self.tracker.start(self.model, self.data.train)

    def _fit(self, train: Batches, valid: Batches, bar: "tqdm[Any]", signals: "_Signals") -> list[Epoch]:
        settings, position = self.settings, self.position

        def on_step() -> None:
            bar.update()
            if came := self.group.largest(signals.came):
                raise Stopped(came, position, self.state if self._save() else None, self.group.command)
            if settings.checkpoint_every and position.step % settings.checkpoint_every == 0:
                self._save()

        def on_epoch(epoch: Epoch) -> None:
            bar.clear()
            self.echo(
                f"epoch {epoch.epoch:>2}/{settings.epochs:<2} training loss {epoch.train_loss:.4f}   "
                f"validation loss {epoch.valid_loss:.4f}   accuracy {epoch.valid_accuracy:.2%}"
            )
            self.tracker.epoch(epoch, self.model)
            if epoch.epoch < settings.epochs:
                self._save()

        try:
            return fit(
                self.trained,
                train,
                valid,
                lr=settings.lr,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                optimizer=self.optimizer,
                schedule=SCHEDULES[settings.schedule],
                position=position,
                group=self.group,
                on_step=on_step,
                on_epoch=on_epoch,
            )
        except DivergenceError as error:
            if self.state.exists():
                raise DivergenceError(f"{error}; the last good checkpoint is {self.state}") from error
            raise

    @property
    def state(self) -> Path:
        """Where the resumable checkpoint is."""
        return self.folder / FILE

    def _save(self) -> bool:
        return save_state(
            self.state, self.settings, self.digests, self.model, self.optimizer, self.position, group=self.group
        )

    def _finish(self, history: list[Epoch], tested: dict[str, float]) -> None:
        record = {
            "model": self.settings.model,
            "hyperparameters": self.settings.hyperparameters(),
            "device": self.device.type,
            "data": {"name": self._data_name(), "sha256": dict(self.digests)},
            "metrics": history[-1].metrics() | tested,
            "versions": {"mnist-edge": __version__, "torch": torch.__version__},
        }
        path, metrics = (self.folder / name for name in FILES)
        digest = checkpoint.save(path, self.model, record)
        lines = [*(epoch.metrics() for epoch in history), {**tested, "run": record}]
        write_atomically(metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self.state.unlink(missing_ok=True)
        self.echo(f"Wrote {path} (sha256 {digest[:12]}) and {metrics}.")
        self.tracker.finish(tested)
        if self.settings.report:
            from mnist_train.report import write_report

            valid = _batches(self.data.valid, self.device)
            index = write_report(Path(self.settings.report), self.model, valid, history, record)
            self.echo(f"Wrote {index}.")

    def _test(self) -> dict[str, float]:
        if self.data.test is None:
            return {}
        loss, accuracy = evaluate(self.trained, self._batches(self.data.test), self.group)
        self.echo(f"test        loss {loss:.4f}   accuracy {accuracy:.2%}")
        return {"test_loss": loss, "test_accuracy": accuracy}

    def _batches(self, split: Split | MappedSplit, shuffle: int | None = None) -> Batches:
        return _batches(split, self.device, shuffle, self.group)

    def _data_name(self) -> str:
        return "mnist" if self.settings.data in {"bundled", "lab"} else Path(self.settings.data).name


class _Signals:
    """While inside, the first SIGINT or SIGTERM is only noted; the second does what it always did."""

    def __init__(self) -> None:
        self.came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.came = number
        self.__exit__()


def choose_device(name: str, group: Group = ALONE) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:N" or "mps" into a device that is there; in a group, into one for each rank.

    Raises:
        DeviceError: it is not.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available() and group is ALONE
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind, _, index = name.partition(":")
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[kind]
    if int(index or 0) >= count:
        there = f"{f'only {count}' if count else 'no'} {kind.upper()} device{'s' if count > 1 else ''}"
        raise DeviceError(f"--device {name} was asked for and torch finds {there}; use --device cpu or auto")
    return _own_device(name, count, group) if group is not ALONE else torch.device(name)


def _own_device(name: str, count: int, group: Group) -> torch.device:
    if name == "cpu":
        return torch.device(name)
    if name == "cuda" and count >= group.local_size:
        torch.cuda.set_device(group.local_rank)  # where NCCL works
        return torch.device(name, group.local_rank)
    raise DeviceError(
        f"--device {name} cannot be shared by the {group.local_size} processes that torchrun started here, and torch "
        f"finds {count} CUDA device{'' if count == 1 else 's'}; use --device cuda with a GPU for each, or --device cpu"
    )


def _choose_threads(model: torch.nn.Module) -> None:
    """Give a small model one thread.

    More would hardly help it, and PyTorch's spin while they wait for one another: where another process wants the same
    cores, the linear model was seen to train 10 to 30 times slower. One also rounds alike on any number of cores.
    """
    if sum(p.numel() for p in model.parameters()) < THREADS_PAY_FROM:
        torch.set_num_threads(1)


def _batches(
    split: Split | MappedSplit, device: torch.device, shuffle: int | None = None, group: Group = ALONE
) -> Batches:
    if isinstance(split, MappedSplit):
        return OnDisk(split.images, split.labels, device, shuffle, group.rank, group.size)
    return InMemory(*split.tensors(device), shuffle, group.rank, group.size)


def _require_digits_for_all(count: int, batch_size: int, group: Group) -> None:
    if min(count, batch_size) < group.size:
        raise GroupError(
            f"{group.size} processes share batches of {min(count, batch_size)} digits, which leaves some without any; "
            "start fewer with --nproc-per-node, or use a larger --batch-size"
        )


def _require_same(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name in before:
        if before[name] != now.get(name):
            raise DataError(f"{name} is not what this training began with (its SHA-256 differs); give the same --data")
