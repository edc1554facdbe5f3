"""The report of a training run: learning curves, confusions, templates and errors as PNG, and a page of them."""

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_runtime.digits import CLASSES, HEIGHT, WIDTH
from mnist_runtime.io.files import write_atomically
from mnist_train.data.batches import Batches
from mnist_train.errors import MissingExtraError
from mnist_train.fit import CHANCE_LOSS, Epoch
from mnist_train.trackers import first_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BATCH = 10_000
_WRONG = 24  # digits of errors.png, six a row
_INK, _FAINT, _BLUE, _RED = "#1f2933", "#9aa5b1", "#2563eb", "#dc2626"
_DPI = 144


@dataclass(frozen=True)
class Outcome:
    """What the model says of every validation digit."""

    confusion: NDArray[np.int64]
    """`[10, 10]`: how many digits of the class of the row are taken for that of the column."""
    wrong: NDArray[np.float32]
    """`[n, 28, 28]`: the digits that it is most wrongly sure of, the worst first."""
    captions: tuple[tuple[int, int, float], ...]
    """Of each of them: the label, the prediction and its probability."""


def require() -> None:
    """See that the report can be drawn, before there is anything to draw.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "--report") from error


def write_report(
    folder: Path, model: nn.Module, valid: Batches, history: Sequence[Epoch], record: Mapping[str, Any]
) -> Path:
    """Draw the run into `folder` and return the path of its index.html.

    Raises:
        MissingExtraError: matplotlib is not installed.
        FileWriteError: naming the file.
    """
    require()
    outcome = examine(model, valid)
    pictures = {
        "curves.png": ("Learning curves", _curves(history)),
        "confusion.png": ("Confusions", _confusion(outcome.confusion)),
    }
    if (weights := first_weights(model)) is not None:
        pictures["templates.png"] = ("What each output looks for", _templates(weights, linear=_is_linear(model)))
    if outcome.captions:
        pictures["errors.png"] = ("Most confidently wrong", _errors(outcome))
    for name, (_, figure) in pictures.items():
        write_atomically(folder / name, _png(figure))
    index = folder / "index.html"
    write_atomically(index, _page({name: title for name, (title, _) in pictures.items()}, record).encode())
    return index


@torch.no_grad()
def examine(model: nn.Module, digits: Batches) -> Outcome:
    """Run `model` in evaluation mode over `digits`, keeping no more of them than the report shows."""
    model.eval()
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    worst: list[tuple[float, int, int, NDArray[np.float32]]] = []
    for pixels, labels in digits.epoch(0, _BATCH):
        sure, said = torch.softmax(model(pixels), dim=1).max(dim=1)
        np.add.at(confusion, (labels.cpu().numpy(), said.cpu().numpy()), 1)
        wrong = (said != labels).nonzero().flatten()
        wrong = wrong[sure[wrong].argsort(descending=True)[:_WRONG]]
        rows = (sure[wrong].tolist(), labels[wrong].tolist(), said[wrong].tolist(), pixels[wrong].cpu().numpy())
        worst = sorted(chain(worst, zip(*rows, strict=True)), key=lambda row: -row[0])[:_WRONG]
    images = [row[3].reshape(HEIGHT, WIDTH) for row in worst]
    captions = tuple((label, said, sure) for sure, label, said, _ in worst)
    return Outcome(confusion, np.array(images, dtype=np.float32).reshape(-1, HEIGHT, WIDTH), captions)


def _is_linear(model: nn.Module) -> bool:
    return sum(p.ndim == 2 for p in model.parameters()) == 1


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _curves(history: Sequence[Epoch]) -> "Figure":
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = _figure(9, 3.6)
    loss, accuracy = figure.subplots(1, 2, width_ratios=[3, 2])
    at = np.concatenate([e.epoch - 1 + (np.arange(len(e.curve)) + 0.5) / max(1, len(e.curve)) for e in history])
    epochs = [e.epoch for e in history]
    loss.axhline(CHANCE_LOSS, color=_FAINT, linestyle=":", linewidth=1.2, label="guessing")
    loss.plot(at, list(chain.from_iterable(e.curve for e in history)), color=_BLUE, linewidth=1.2, label="training")
    loss.plot(epochs, [e.valid_loss for e in history], "o-", color=_RED, markersize=5, label="validation")
    loss.set_ylim(bottom=0)
    loss.set_title("Cross-entropy", loc="left", fontsize=11, color=_INK)
    loss.legend(frameon=False, fontsize=9)
    accuracy.plot(epochs, [e.valid_accuracy for e in history], "o-", color=_RED, markersize=5)
    for e in (history[0], history[-1]) if len(history) > 1 else history:
        accuracy.annotate(
            f"{e.valid_accuracy:.2%}",
            (e.epoch, e.valid_accuracy),
            xytext=(0, 9 if e is history[-1] else -17),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=_INK,
        )
    accuracy.margins(x=0.15, y=0.35)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    accuracy.set_title("Validation accuracy", loc="left", fontsize=11, color=_INK)
    for axes in (loss, accuracy):
        _plain(axes)
        axes.set_xlabel("epoch", fontsize=9, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _confusion(confusion: NDArray[np.int64]) -> "Figure":
    figure = _figure(6.4, 6.2)
    axes = figure.subplots()
    share = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    mistakes = np.where(np.eye(len(CLASSES), dtype=bool), np.nan, share)
    most = max(np.nanmax(mistakes), 1e-9)
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=most * 1.25)
    for label, said in np.ndindex(confusion.shape):
        count = int(confusion[label, said])
        right = label == said
        axes.text(
            said,
            label,
            f"{count:,}" if count else "·",
            ha="center",
            va="center",
            fontsize=9,
            color=_FAINT if not count else "white" if mistakes[label, said] > 0.7 * most else _INK,
            fontweight="bold" if right else "normal",
        )
    axes.set_xticks(CLASSES)
    axes.set_yticks(CLASSES)
    axes.tick_params(length=0, colors=_INK, labelsize=10)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontsize=10, color=_INK)
    axes.set_ylabel("label", fontsize=10, color=_INK)
    accuracy = np.trace(confusion) / confusion.sum()
    axes.set_title(
        f"{confusion.sum():,} validation digits, {accuracy:.2%} right", loc="left", fontsize=11, color=_INK, pad=10
    )
    return figure


def _templates(weights: NDArray[np.float32], *, linear: bool) -> "Figure":
    titles = [str(row) if linear else f"unit {row}" for row in range(len(weights))]
    figure = _figure(8, 3.6)
    limit = float(np.abs(weights).max())
    for axes, image, title in zip(_grid(figure, 2, 5), weights, titles, strict=False):
        shown = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(title, fontsize=10, color=_INK)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.85, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels(["against", "0", "for"], fontsize=9, color=_INK)
    bar.outline.set_visible(False)
    return figure


def _errors(outcome: Outcome) -> "Figure":
    rows = -(-len(outcome.captions) // 6)
    figure = _figure(8, 1.72 * rows)
    for axes, image, (label, said, sure) in zip(_grid(figure, rows, 6), outcome.wrong, outcome.captions, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{label} taken for {said}\n{min(sure, 0.999):.1%} sure", fontsize=8.5, color=_INK)
    return figure


def _grid(figure: "Figure", rows: int, columns: int) -> Iterator["Axes"]:
    for axes in np.ravel(figure.subplots(rows, columns, squeeze=False)):
        axes.set_axis_off()
        yield axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }}
  h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .5rem }}
  img {{ max-width: 100%; height: auto }}
  table {{ border-collapse: collapse; font-size: .9rem }}
  th {{ text-align: left; font-weight: 500; padding: .15rem 2rem .15rem 0; color: #52606d }}
  td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def _page(pictures: Mapping[str, str], record: Mapping[str, Any]) -> str:
    metrics = {
        name: f"{value:.2%}" if "accuracy" in name else f"{value:g}" for name, value in record["metrics"].items()
    }
    facts = {"device": record["device"], "data": record["data"]["name"], **record["versions"]}
    sections = [_section("Metrics", metrics)]
    sections += [f'<h2>{title}</h2>\n<img src="{name}" alt="{title}">' for name, title in pictures.items()]
    sections += [_section("Settings", record["hyperparameters"]), _section("Made with", facts)]
    title = html.escape(f"Training of {record['model']}: {metrics['valid_accuracy']} of validation digits right")
    return _PAGE.format(title=title, body="\n".join(sections))


def _section(title: str, facts: Mapping[str, object]) -> str:
    rows = "\n".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}<td>{html.escape(str(value))}" for name, value in facts.items()
    )
    return f"<h2>{title}</h2>\n<table>\n{rows}\n</table>"
