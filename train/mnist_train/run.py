"""One training run: from settings to a checkpoint, through everything that can interrupt it."""

import json
import math
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self
from urllib.parse import urlsplit

import torch
from tqdm import tqdm

from mnist_runtime import __version__
from mnist_runtime.io.files import ensure_writable, sweep, write_atomically
from mnist_train import checkpoint
from mnist_train.augment import augmented
from mnist_train.averaging import WeightAverage
from mnist_train.data.batches import Alteration, Altered, Batches, InMemory, OnDisk
from mnist_train.data.bundled import load_split
from mnist_train.data.disk import DiskSplit
from mnist_train.data.sources import AnySplit, open_source
from mnist_train.devices import choose_device, limit_threads
from mnist_train.distributed import ALONE, ProcessGroup
from mnist_train.errors import DataError, GroupError
from mnist_train.fit import CHANCE_LOSS, Epoch, Position, evaluate, fit
from mnist_train.models import build, knows_no_digit, require_trainable
from mnist_train.optimizers import SCHEDULES, make_optimizer
from mnist_train.plots import require_matplotlib
from mnist_train.resumable import FILE, State, load_state, save_state
from mnist_train.settings import TrainingSettings
from mnist_train.trackers import Tracker, make_tracker

FILES = ("mnist.safetensors", "metrics.jsonl")
"""Files that a run leaves in its output folder."""

_UNSAVED = "nothing was saved, because the loss was NaN"
_SHOW_EVERY = 100  # steps, after which the loop has waited for the device anyway
_NO_DIGITS = 0.24  # pictures of what is no digit per training digit; an epoch shows about half of them


class Stopped(Exception):  # noqa: N818  # not an error, because a person asked for it
    """A signal ended the run after a whole step."""

    def __init__(self, signal_number: int, position: Position, state: Path | None, command: str) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(
            f"Stopped after step {position.step} of epoch {position.epoch}; "
            + (f"continue with: {shlex.join([*command.split(), '--resume', str(state)])}" if state else _UNSAVED)
        )


class TrainingRun:
    """A model, its data and its progress; each process of a group has one."""

    def __init__(
        self,
        settings: TrainingSettings,
        resumed: State | None = None,
        echo: Callable[[str], object] = print,
        group: ProcessGroup = ALONE,
    ) -> None:
        """Load data and model, and continue where `resumed` stopped; everything that can be refused is refused here.

        Raises:
            MnistRuntimeError: the subclass says what is wrong.
        """
        self.settings = settings
        self.echo = echo
        self.group = group
        self.folder = Path(settings.output_dir)
        self.state = self.folder / FILE
        with group.together():
            self.device = choose_device(settings.device, group)
            self.tracker = Tracker() if group.rank else self._prepare_outputs()
            self.data = open_source(settings.data, sha256=settings.sha256 or None, checked=group.rank > 0)
            self._require_digits_for_all()
            torch.manual_seed(settings.seed)
            self.model = build(settings.model).to(self.device)
            require_trainable(self.model, settings.model)
            digests = {} if group.rank else dict(self.data.digests())
        self.digests = group.of_main(digests)
        limit_threads(self.model)
        self.optimizer = make_optimizer(
            settings.optimizer,
            self.model.parameters(),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        if group.rank:
            torch.manual_seed(settings.seed + group.rank)  # so that each rank drops out other units
        self.average = WeightAverage(self.model, settings.average)
        self.position = Position()
        with group.together():
            if resumed := self._load_state_of_restarted() or resumed:
                self._require_same_data(resumed)
                self.position = resumed.restore(self.model, self.optimizer, self.average, group.rank)
        self.trained = group.wrap(self.model)

    def _prepare_outputs(self) -> Tracker:
        """Raise unless all outputs can be written, and remove what a killed run left half-written."""
        ensure_writable(self.folder)
        for name in (FILE, *FILES):
            sweep(self.folder / name)
        if self.settings.report:
            require_matplotlib()
            ensure_writable(self.settings.report)
        return make_tracker(self.settings.tracker, self.folder, self.settings)

    def _require_digits_for_all(self) -> None:
        count = min(len(self.data.train), self.settings.batch_size)
        if count < self.group.size:
            raise GroupError(
                f"{self.group.size} processes share batches of {count} digits, which leaves some without any; "
                "start fewer with --nproc-per-node, or use a larger --batch-size"
            )

    def _require_same_data(self, resumed: State) -> None:
        for name, digest in resumed.data.items():
            if digest != self.digests.get(name):
                raise DataError(f"{name} is not that of the interrupted run (by its SHA-256); give the same --data")

    def _load_state_of_restarted(self) -> State | None:
        """Return the state that this run saved, if torchrun has restarted it."""
        if not self.group.of_main(self.group.restarted and self.state.exists()):
            return None
        left = load_state(self.state)
        return left if (left.run_id, left.settings) == (self.group.run_id, self.settings) else None

    def train(self) -> None:
        """Train to the end and write the checkpoint, the metrics and the report.

        Raises:
            Stopped: SIGINT or SIGTERM came; a resumable checkpoint was written.
            DivergenceError: the loss is NaN or infinite.
            ModelError: the model fails on a batch in training mode.
        """
        train = self._training_batches()
        valid = self._batches(self.data.valid)
        self._announce(train, valid)
        steps = math.ceil(len(train) / self.settings.batch_size)
        with (
            _DeferredSignals() as signals,  # before the bar, because a person who sees the bar may stop the run
            tqdm(
                total=self.settings.epochs * steps,
                initial=(self.position.epoch - 1) * steps + self.position.step,
                bar_format="{desc} {percentage:3.0f}% |{bar}| {remaining} left",  # short enough for 80 columns
                leave=False,
                disable=not sys.stderr.isatty(),
                mininterval=0.2,
            ) as bar,
        ):
            history = self._fit(train, valid, bar, signals)
        tested = self._test()
        if self.group.rank == 0:
            self._write(train, history, tested)

    def _announce(self, train: Batches, valid: Batches) -> None:
        parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        where = f"{self.group.size} processes, {self.device.type}" if self.group.size > 1 else self.device
        self.echo(f"Training {self.settings.model} of {parameters:,} parameters on {len(train):,} digits ({where}).")
        if self.position.history or self.position.step:
            self.echo(f"resumed     at step {self.position.step} of epoch {self.position.epoch}")
        else:
            loss, _ = evaluate(self.model, valid, self.group)
            self.echo(f"untrained   validation loss {loss:.4f}; guessing gives -ln(1/10) = {CHANCE_LOSS:.4f}")
        self.tracker.start(self.model, train)

    def _fit(self, train: Batches, valid: Batches, bar: "tqdm[Any]", signals: "_DeferredSignals") -> list[Epoch]:
        settings, position = self.settings, self.position

        def on_step() -> None:
            bar.update()
            if position.step % _SHOW_EVERY == 0 and not bar.disable:
                _show(bar, position, settings.epochs)
            if number := self.group.largest(signals.received):
                raise Stopped(number, position, self.state if self._save() else None, self.group.command)
            if settings.checkpoint_every and position.step % settings.checkpoint_every == 0:
                self._save()

        def on_epoch(epoch: Epoch) -> None:
            bar.clear()
            self.echo(
                f"epoch {epoch.epoch:>2}/{settings.epochs:<2} training loss {epoch.train_loss:.4f}   "
                f"validation loss {epoch.valid_loss:.4f}   accuracy {epoch.valid_accuracy:.2%}"
            )
            self.tracker.epoch(epoch, self.average.model)
            if epoch.epoch < settings.epochs:
                self._save()

        return fit(
            self.trained,
            train,
            valid,
            lr=settings.lr,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            optimizer=self.optimizer,
            schedule=SCHEDULES[settings.schedule],
            label_smoothing=settings.label_smoothing,
            average=self.average,
            position=position,
            group=self.group,
            on_step=on_step,
            on_epoch=on_epoch,
        )

    def _save(self) -> bool:
        return save_state(
            self.state,
            self.settings,
            self.digests,
            self.model,
            self.optimizer,
            self.position,
            average=self.average,
            group=self.group,
        )

    def _test(self) -> dict[str, float]:
        if self.data.test is None:
            return {}
        loss, accuracy = evaluate(self.average.model, self._batches(self.data.test), self.group)
        self.echo(f"test        loss {loss:.4f}   accuracy {accuracy:.2%}")
        return {"test_loss": loss, "test_accuracy": accuracy}

    def _write(self, train: Batches, history: list[Epoch], tested: dict[str, float]) -> None:
        source = self.settings.data
        if "://" in source:
            source = urlsplit(source).path  # a signed URL holds a secret
        record = {
            "model": self.settings.model,
            "hyperparameters": self.settings.hyperparameters(),
            "device": self.device.type,
            "data": {
                "name": "mnist" if source in {"bundled", "lab"} else Path(source).name,
                "sha256": dict(self.digests),
            },
            "metrics": history[-1].metrics() | tested,
            "versions": {"mnist-edge": __version__, "torch": torch.__version__},
        }
        path, metrics = (self.folder / name for name in FILES)
        digest = checkpoint.save(path, self.average.model, record)
        lines = [*(epoch.metrics() for epoch in history), {**tested, "run": record}]
        write_atomically(metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self.state.unlink(missing_ok=True)
        self.echo(f"Wrote {path} (sha256 {digest[:12]}) and {metrics}.")
        self.tracker.finish(tested)
        if self.settings.report:
            from mnist_train.report import write_report

            valid = self._batches(self.data.valid, group=ALONE)
            index = write_report(Path(self.settings.report), self.average.model, train, valid, history, record)
            self.echo(f"Wrote {index}.")

    def _training_batches(self) -> Batches:
        settings = self.settings
        batches = self._batches(self.data.train, settings.seed if settings.shuffle else None)
        alterations: list[Alteration] = []
        if knows_no_digit(self.model):
            from mnist_train.no_digit import mixed_with, no_digits

            pictures = no_digits(round(_NO_DIGITS * len(batches)), load_split("train"), settings.seed)
            alterations.append(mixed_with(pictures.to(self.device)))
        if settings.augment:
            alterations.append(augmented)
        return Altered(batches, alterations, settings.seed, self.group.rank) if alterations else batches

    def _batches(self, split: AnySplit, shuffle: int | None = None, group: ProcessGroup | None = None) -> Batches:
        group = group or self.group
        if isinstance(split, DiskSplit):
            return OnDisk(split.images, split.labels, self.device, shuffle, group.rank, group.size)
        return InMemory(*split.tensors(self.device), shuffle, group.rank, group.size)


def _show(bar: "tqdm[Any]", position: Position, epochs: int) -> None:
    """Show epoch, loss and validation accuracy beside the bar."""
    loss = float(position.losses[position.step - _SHOW_EVERY : position.step].mean())
    accuracy = f", accuracy {position.history[-1].valid_accuracy:.2%}" if position.history else ""
    bar.set_description_str(f"epoch {position.epoch}/{epochs}, loss {loss:.3f}{accuracy}", refresh=False)


class _DeferredSignals:
    """A block in which the first SIGINT or SIGTERM is only recorded; the second has its usual effect."""

    def __init__(self) -> None:
        self.received = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.__exit__()
