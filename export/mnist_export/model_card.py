"""Report of `mnist-export`: index.html with pictures, and report.md to paste into a model card; needs matplotlib."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from mnist_export.summary import NOTE, Table
from mnist_runtime.io.files import write_atomically
from mnist_train.plots import (
    BLUE,
    GREY,
    INK,
    PAPER,
    RED,
    hide_spines,
    new_figure,
    require_matplotlib,
    set_title,
    to_image,
    to_page,
    to_png,
    to_table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mnist_export.bundle import Gated

require_matplotlib()


def write_model_card(folder: str | os.PathLike[str], gated: Sequence["Gated"], checkpoint: str, summary: Table) -> None:
    """Write index.html, report.md and their pictures into `folder`, made if missing.

    Args:
        folder: Folder to write into.
        gated: Artifacts, at least one.
        checkpoint: SHA-256 of the checkpoint, in hex.
        summary: Table of `mnist_export.summary.summarise` over the same artifacts.

    Raises:
        FileWriteError: a file cannot be written; the sentence names it.
    """
    pictures = {"errors.png": to_png(_draw_errors(gated)), "sizes.png": to_png(_draw_sizes(gated))}
    graphs = {artifact.data: artifact for artifact in reversed(gated) if artifact.format.is_onnx}
    for artifact in reversed(graphs.values()):  # each graph once, because "triton" has the bytes of "onnx"
        pictures[f"{artifact.format.name}.png"] = to_png(_draw_graph(artifact))
    tables = {"Artifacts": _with_shares(summary, gated), "Parity with the trained module": _parity(gated)}
    page = to_page(
        "What was exported, and how it was proved",
        f"<p>Checkpoint <code>{checkpoint}</code></p>",
        *(f"<h2>{title}</h2>\n{to_table(rows, heading)}" for title, (heading, rows) in tables.items()),
        f"<p>{NOTE}</p>",
        *(to_image(name, _alt(name)) for name in pictures),
    )
    card = [f"Checkpoint `{checkpoint}`", *map(_markdown_table, tables.values()), NOTE]
    for name, picture in pictures.items():
        write_atomically(Path(folder) / name, picture)
    write_atomically(Path(folder) / "report.md", ("\n\n".join(card) + "\n").encode())
    write_atomically(Path(folder) / "index.html", page)


def _alt(picture: str) -> str:
    known = {"errors.png": "Histogram of logit errors", "sizes.png": "Sizes of the artifacts"}
    return known.get(picture, f"The graph of {Path(picture).stem}")


def _with_shares(summary: Table, gated: Sequence["Gated"]) -> Table:
    heading, rows = summary
    verdicts = [artifact.verdict for artifact in gated]
    shares = [(verdict.module_accuracy, verdict.agreement, verdict.bit_equal) for verdict in verdicts]
    wider = [[*row, *(f"{share:.2%}" for share in more)] for row, more in zip(rows, shares, strict=True)]
    return [*heading, "of the module", "same labels", "bit-equal logits"], wider


def _parity(gated: Sequence["Gated"]) -> Table:
    heading = ["format", "digits", "count", "same label", "certified", "worst error", "share of its bound", "bound"]
    rows = [
        [
            artifact.format.name,
            comparison.name,
            f"{comparison.count:,}",
            f"{comparison.agreeing:,}",
            f"{comparison.certified:,}",
            f"{comparison.worst_error:.1e}",
            f"{comparison.worst_share:.2f}",
            artifact.verdict.proof.bound,
        ]
        for artifact in gated
        for comparison in artifact.verdict.comparisons
    ]
    return heading, rows


def _markdown_table(table: Table) -> str:
    heading, rows = table
    rule = ["---", "---", *["---:"] * (len(heading) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *rows))


def _draw_errors(gated: Sequence["Gated"]) -> "Figure":
    """Draw a histogram per artifact: each validation logit's error as a share of its bound, on a logarithmic scale."""
    figure = new_figure(9, 1.0 + 1.2 * len(gated))
    edges = np.geomspace(1e-6, 2, 80)
    all_axes: Any = figure.subplots(len(gated), sharex=True, squeeze=False)[:, 0]
    for axes, artifact in zip(all_axes, gated, strict=True):
        axes.hist(np.maximum(artifact.verdict.shares.ravel(), edges[0]), edges, color=BLUE)
        axes.axvline(1, color=RED, linewidth=1.5)
        axes.set_ylabel(artifact.format.name, rotation=0, ha="right", va="center")
        axes.set_yticks([])
        hide_spines(axes, "top", "right", "left")
    set_title(
        all_axes[0], "Error of each validation logit as a share of its bound; past the red line an artifact fails"
    )
    all_axes[-1].set_xscale("log")
    all_axes[-1].set_xlabel("share of the bound (0 is drawn at the left edge)")
    return figure


def _draw_sizes(gated: Sequence["Gated"]) -> "Figure":
    figure = new_figure(9, 0.8 + 0.4 * len(gated))
    axes = figure.subplots()
    sizes = [len(artifact.data) / 1000 for artifact in gated]
    bars = axes.barh([artifact.format.name for artifact in gated], sizes, color=BLUE)
    axes.bar_label(bars, [f"{size:,.1f} kB" for size in sizes], padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    set_title(axes, "Size, golden digits included")
    hide_spines(axes, "top", "right", "left")
    axes.tick_params(left=False)
    axes.set_xticks([])
    return figure


def _draw_graph(artifact: "Gated") -> "Figure":
    """Draw the operators from top to bottom in the order in which they run, and an arrow per tensor between two.

    An operator that only unpacks weights is not drawn; its packed weights are shown at the operator that takes them.
    """
    graph = onnx.load_from_string(artifact.data).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if all(name in weights for name in node.input):
            weights[node.output[0]] = weights[node.input[0]]
        else:
            nodes.append(node)
    made = {"pixels": 0} | {name: row for row, node in enumerate(nodes, 1) for name in node.output}
    last = len(nodes) + 1
    figure = new_figure(9, 0.62 * (last + 1))
    axes = figure.subplots()
    _box(axes, 0, f"pixels  {artifact.format.dtype} [batch, 784]")
    for row, node in enumerate(nodes, 1):
        _box(axes, row, _caption(node, weights))
        for name in node.input:
            if name in made:
                _arrow(axes, made[name], row)
    _box(axes, last, ",  ".join(f"{value.name}  float32 [batch, 10]" for value in graph.output))
    for value in graph.output:
        _arrow(axes, made[value.name], last)
    axes.set(xlim=(-1, 1), ylim=(last + 0.5, -0.5))
    set_title(axes, artifact.format.file)
    axes.axis("off")
    return figure


def _caption(node: NodeProto, weights: dict[str, Any]) -> str:
    arrays = [weights[name] for name in node.input if name in weights and weights[name].ndim]
    shapes = ", ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in arrays)
    return f"{node.op_type}   {shapes}".rstrip()


def _box(axes: "Axes", row: int, text: str) -> None:
    style = {"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": INK}
    axes.text(0, row, text, ha="center", va="center", fontsize=10, color=INK, bbox=style)


def _arrow(axes: "Axes", start: int, end: int) -> None:
    """Draw an arrow, straight to the next row, and bent around the rows between to a later one."""
    bend = "arc3" if end == start + 1 else "arc3,rad=-0.5"
    arrow = {"arrowstyle": "-|>", "color": GREY, "connectionstyle": bend, "shrinkA": 11, "shrinkB": 11}
    axes.annotate("", xy=(0, end), xytext=(0, start), arrowprops=arrow, zorder=0)
