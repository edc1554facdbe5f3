"""The report of a training run: curves, confusions, training pictures, weights and errors as PNG, on an HTML page."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_runtime.digits import CLASSES, HEIGHT, WIDTH
from mnist_runtime.io.files import write_atomically
from mnist_train.data.batches import Batches
from mnist_train.fit import CHANCE_LOSS, Epoch
from mnist_train.plots import (
    BLUE,
    GREY,
    INK,
    RED,
    hide_spines,
    new_figure,
    set_title,
    to_image,
    to_page,
    to_png,
    to_table,
)
from mnist_train.trackers import first_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BATCH = 10_000
_WRONG = 24  # digits in errors.png
_SAMPLES = 100  # pictures in samples.png


@dataclass(frozen=True)
class Outcome:
    """Predictions for the validation digits."""

    confusion: NDArray[np.int64]
    """Counts `[10, 10]`: a row per label, a column per prediction."""
    wrong: NDArray[np.float32]
    """Misclassified digits `[n, 28, 28]`, the most confident first."""
    captions: tuple[tuple[int, int, float], ...]
    """Label, prediction and its probability, per misclassified digit."""


def write_report(
    folder: Path, model: nn.Module, train: Batches, valid: Batches, history: Sequence[Epoch], record: Mapping[str, Any]
) -> Path:
    """Draw the run into `folder` and return the path of its index.html.

    Raises:
        MissingExtraError: matplotlib is not installed.
        FileWriteError: a file cannot be written; the sentence names it.
    """
    outcome = examine(model, valid)
    figures = {
        "curves.png": ("Learning curves", _curves(history)),
        "confusion.png": ("Confusions", _confusion(outcome.confusion)),
    }
    pixels, _ = next(iter(train.epoch(1, _SAMPLES)))
    figures["samples.png"] = ("Training pictures", _samples(pixels.reshape(-1, HEIGHT, WIDTH).cpu().numpy()))
    if len(weights := first_weights(model)):
        is_linear = sum(p.ndim == 2 for p in model.parameters()) == 1
        figures["templates.png"] = ("What each output looks for", _templates(weights, linear=is_linear))
    if outcome.captions:
        figures["errors.png"] = ("Most confidently wrong", _errors(outcome))
    for name, (_, figure) in figures.items():
        write_atomically(folder / name, to_png(figure))
    index = folder / "index.html"
    write_atomically(index, _page({name: title for name, (title, _) in figures.items()}, record))
    return index


@torch.no_grad()
def examine(model: nn.Module, digits: Batches) -> Outcome:
    """Run `model` in evaluation mode over `digits`; keep only the digits that the report shows."""
    model.eval()
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    worst: list[tuple[Any, ...]] = []
    for pixels, labels in digits.epoch(0, _BATCH):
        confidence, prediction = torch.softmax(model(pixels)[:, : len(CLASSES)], dim=1).max(dim=1)
        np.add.at(confusion, (labels.cpu().numpy(), prediction.cpu().numpy()), 1)
        wrong = prediction != labels
        columns = (each[wrong].cpu().numpy() for each in (confidence, labels, prediction, pixels))
        worst = heapq.nlargest(_WRONG, chain(worst, zip(*columns, strict=True)), key=itemgetter(0))
    images = np.array([row[3] for row in worst], dtype=np.float32).reshape(-1, HEIGHT, WIDTH)
    captions = tuple((int(label), int(prediction), float(confidence)) for confidence, label, prediction, _ in worst)
    return Outcome(confusion, images, captions)


def _curves(history: Sequence[Epoch]) -> "Figure":
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = new_figure(9, 3.6)
    loss, accuracy = figure.subplots(1, 2, width_ratios=[3, 2])
    at = np.concatenate([e.epoch - 1 + (np.arange(len(e.curve)) + 0.5) / max(1, len(e.curve)) for e in history])
    epochs = [e.epoch for e in history]
    loss.axhline(CHANCE_LOSS, color=GREY, linestyle=":", linewidth=1.2, label="guessing")
    loss.plot(at, list(chain.from_iterable(e.curve for e in history)), color=BLUE, linewidth=1.2, label="training")
    loss.plot(epochs, [e.valid_loss for e in history], "o-", color=RED, markersize=5, label="validation")
    loss.set_ylim(bottom=0)
    set_title(loss, "Cross-entropy")
    loss.legend(frameon=False, fontsize=9)
    accuracy.plot(epochs, [e.valid_accuracy for e in history], "o-", color=RED, markersize=5)
    for e in (history[0], history[-1]) if len(history) > 1 else history:
        accuracy.annotate(
            f"{e.valid_accuracy:.2%}",
            (e.epoch, e.valid_accuracy),
            xytext=(0, 9 if e is history[-1] else -17),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    accuracy.margins(x=0.15, y=0.35)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    set_title(accuracy, "Validation accuracy")
    for axes in (loss, accuracy):
        hide_spines(axes, "top", "right")
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("epoch", fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _confusion(confusion: NDArray[np.int64]) -> "Figure":
    figure = new_figure(6.4, 6.2)
    axes = figure.subplots()
    share = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    mistakes = np.where(np.eye(len(CLASSES), dtype=bool), np.nan, share)
    most = max(np.nanmax(mistakes), 1e-9)
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=most * 1.25)
    for label, prediction in np.ndindex(confusion.shape):
        count = int(confusion[label, prediction])
        axes.text(
            prediction,
            label,
            f"{count:,}" if count else "·",
            ha="center",
            va="center",
            fontsize=9,
            color=GREY if not count else "white" if mistakes[label, prediction] > 0.7 * most else INK,
            fontweight="bold" if label == prediction else "normal",
        )
    axes.set_xticks(CLASSES)
    axes.set_yticks(CLASSES)
    hide_spines(axes, "top", "right", "bottom", "left")
    axes.tick_params(length=0)
    axes.set_xlabel("prediction", fontsize=10, color=INK)
    axes.set_ylabel("label", fontsize=10, color=INK)
    accuracy = np.trace(confusion) / confusion.sum()
    set_title(axes, f"{confusion.sum():,} validation digits, {accuracy:.2%} right")
    return figure


def _samples(pictures: NDArray[np.float32]) -> "Figure":
    figure = new_figure(6, 6)
    for axes, picture in zip(_grid(figure, 10, 10), pictures, strict=False):
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    return figure


def _templates(weights: NDArray[np.float32], *, linear: bool) -> "Figure":
    titles = [str(row) if linear else f"unit {row}" for row in range(len(weights))]
    figure = new_figure(8, 3.6)
    limit = float(np.abs(weights).max())
    for axes, image, title in zip(_grid(figure, 2, 5), weights, titles, strict=False):
        shown = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(title, fontsize=10, color=INK)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.85, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels(["against", "0", "for"], fontsize=9, color=INK)
    bar.outline.set_visible(False)
    return figure


def _errors(outcome: Outcome) -> "Figure":
    rows = -(-len(outcome.captions) // 6)
    figure = new_figure(8, 1.72 * rows)
    for axes, image, (label, prediction, confidence) in zip(
        _grid(figure, rows, 6), outcome.wrong, outcome.captions, strict=False
    ):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{label} taken for {prediction}\n{min(confidence, 0.999):.1%} sure", fontsize=8.5, color=INK)
    return figure


def _grid(figure: "Figure", rows: int, columns: int) -> Iterator["Axes"]:
    for axes in np.ravel(figure.subplots(rows, columns, squeeze=False)):
        axes.set_axis_off()
        yield axes


def _page(pictures: Mapping[str, str], record: Mapping[str, Any]) -> bytes:
    metrics = {
        name: f"{value:.2%}" if "accuracy" in name else f"{value:g}" for name, value in record["metrics"].items()
    }
    made_with = {"device": record["device"], "data": record["data"]["name"], **record["versions"]}
    images = (f"<h2>{title}</h2>\n{to_image(name, title)}" for name, title in pictures.items())
    return to_page(
        f"Training of {record['model']}: {metrics['valid_accuracy']} of validation digits right",
        _facts("Metrics", metrics),
        *images,
        _facts("Settings", record["hyperparameters"]),
        _facts("Made with", made_with),
    )


def _facts(title: str, facts: Mapping[str, object]) -> str:
    return f"<h2>{title}</h2>\n" + to_table((name.replace("_", " "), value) for name, value in facts.items())
