"""Experiment trackers: curves, images of the weights and sample digits for TensorBoard or Weights & Biases."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_runtime.digits import HEIGHT, PIXELS, WIDTH
from mnist_runtime.errors import first_line
from mnist_runtime.io.files import ensure_writable
from mnist_train.data.batches import Batches
from mnist_train.errors import MissingExtraError, TrackerError
from mnist_train.fit import Epoch
from mnist_train.settings import TrainingSettings

_SAMPLES = 10  # digits


class Tracker:
    """A log of a training run; this one logs nothing."""

    def start(self, model: nn.Module, train: Batches) -> None:
        """Log the start of training."""

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """Log the end of an epoch."""

    def finish(self, metrics: dict[str, float]) -> None:
        """Log the metrics on the test digits, and close the log."""


class TensorBoard(Tracker):
    """A log in event files in `folder`/tensorboard."""

    def __init__(self, folder: Path, settings: TrainingSettings) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "--tracker tensorboard") from error
        ensure_writable(folder / "tensorboard")
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._settings = settings

    def start(self, model: nn.Module, train: Batches) -> None:
        """Log settings, sample digits and the initial weights."""
        images, labels = _samples(train)
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in self._settings.to_toml().splitlines()), 0)
        self._writer.add_images("digits", images[:, None], 0)
        self._writer.add_text("digits/labels", " ".join(map(str, labels)), 0)
        self._add_weights(model, 0)

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """Log the curve, the metrics and the weights."""
        for at, loss in enumerate(epoch.curve):
            self._writer.add_scalar("loss/train_curve", loss, (epoch.epoch - 1) * len(epoch.curve) + at)
        for name, value in epoch.metrics().items():
            if name != "epoch":
                self._writer.add_scalar(name, value, epoch.epoch)
        self._add_weights(model, epoch.epoch)
        self._writer.flush()

    def finish(self, metrics: dict[str, float]) -> None:
        """Log hyperparameters with the metrics, and close the file."""
        self._writer.add_hparams(self._settings.hyperparameters(), metrics, run_name=".")
        self._writer.close()

    def _add_weights(self, model: nn.Module, at: int) -> None:
        if len(images := weight_images(model)):
            self._writer.add_images("weights", images, at, dataformats="NHWC")


class WandB(Tracker):
    """A log in a run of Weights & Biases, in `folder`/wandb; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Path, settings: TrainingSettings) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "--tracker wandb") from error
        self._wandb = wandb
        try:
            self._run: Any = wandb.init(
                project="mnist-edge", dir=str(folder), config=asdict(settings), settings={"silent": True}
            )
        except wandb.errors.Error as error:
            raise TrackerError(
                f"wandb cannot start ({first_line(error)}); run wandb login, or set WANDB_MODE=offline"
            ) from error

    def start(self, model: nn.Module, train: Batches) -> None:
        """Log sample digits with their labels, and the initial weights."""
        images, labels = _samples(train)
        pictures = [self._wandb.Image(image, caption=str(label)) for image, label in zip(images, labels, strict=True)]
        self._run.log({"digits": pictures, **self._weights(model)}, commit=False)

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """Log the curve, the metrics and the weights."""
        for loss in epoch.curve:
            self._run.log({"loss": loss})
        self._run.log({**epoch.metrics(), **self._weights(model)})

    def finish(self, metrics: dict[str, float]) -> None:
        """Log the metrics and close the run."""
        self._run.summary.update(metrics)
        self._run.finish()

    def _weights(self, model: nn.Module) -> dict[str, Any]:
        images = [self._wandb.Image(image, caption=str(label)) for label, image in enumerate(weight_images(model))]
        return {"weights": images} if images else {}


def make_tracker(name: str, folder: Path, settings: TrainingSettings) -> Tracker:
    """Make the tracker named "none", "tensorboard" or "wandb".

    Raises:
        MissingExtraError: the tracker's package is not installed.
        TrackerError, FileWriteError: it cannot start, or its folder cannot be written.
    """
    match name:
        case "tensorboard":
            return TensorBoard(folder, settings)
        case "wandb":
            return WandB(folder, settings)
    return Tracker()


def _samples(train: Batches) -> tuple[NDArray[np.float32], list[int]]:
    """Return the first ten training pictures, float32 `[10, 28, 28]`, and their labels."""
    pixels, labels = next(iter(train.epoch(1, _SAMPLES)))
    return pixels.reshape(-1, HEIGHT, WIDTH).cpu().numpy(), labels.tolist()


def weight_images(model: nn.Module) -> NDArray[np.uint8]:
    """Return `first_weights` as uint8 RGB `[n, 28, 28, 3]`: positive weights are red, negative ones blue."""
    weights = first_weights(model)
    share = weights / np.abs(weights).max(axis=(1, 2), keepdims=True).clip(1e-12)
    red, blue = 1 + np.minimum(share, 0), 1 - np.maximum(share, 0)
    levels: NDArray[np.uint8] = np.rint(255 * np.stack([red, 1 - np.abs(share), blue], axis=-1)).astype(np.uint8)
    return levels


def first_weights(model: nn.Module) -> NDArray[np.float32]:
    """Return the weights of up to ten outputs or hidden units that take pixels, float32 `[n, 28, 28]`."""
    layers = (each.detach() for each in model.parameters() if each.ndim == 2 and each.shape[1] == PIXELS)
    rows: NDArray[np.float32] = next(layers, torch.empty(0, PIXELS))[:10].to("cpu", torch.float32).numpy()
    return rows.reshape(-1, HEIGHT, WIDTH)
