"""The export as people like to see it: index.html with pictures, and report.md to paste into a model card.

Needs matplotlib, the extra `report`.
"""

import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from mnist_runtime.io.files import write_atomically
from mnist_train.errors import MissingExtraError

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("matplotlib", "report", "--report") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mnist_export.bundle import Gated

_INK, _PAPER, _LINE = "#1f3a5f", "#eef3f9", "#8aa0b8"

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>mnist-export</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933 }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #d9e2ec; text-align: right }}
td {{ font-variant-numeric: tabular-nums }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }}
img {{ max-width: 100%; height: auto }} figure {{ margin: 2rem 0 }} code {{ overflow-wrap: anywhere }}
</style>
<h1>What was exported, and how it was proved</h1>
<p>Checkpoint <code>{checkpoint}</code></p>
{tables}
{figures}
</html>
"""

Table = tuple[list[str], list[list[str]]]
"""A heading and rows."""


def write_report(folder: str | os.PathLike[str], gated: Sequence["Gated"], checkpoint: str) -> None:
    """Write index.html, report.md and their pictures into `folder`, made if missing.

    Args:
        folder: Where to.
        gated: The artifacts, at least one.
        checkpoint: SHA-256 of what they were made from, in hex.

    Raises:
        FileWriteError: naming the file.
    """
    pictures = {"errors.png": _png(_draw_errors(gated)), "sizes.png": _png(_draw_sizes(gated))}
    graphs = {artifact.data: artifact for artifact in reversed(gated) if artifact.format.is_onnx}
    for artifact in reversed(graphs.values()):  # each once: "triton" has the bytes of "onnx"
        pictures[f"{artifact.format.name}.png"] = _png(_draw_graph(artifact))
    tables = [_summary(gated), _parity(gated)]
    page = _PAGE.format(
        checkpoint=html.escape(checkpoint),
        tables="\n".join(map(_html_table, tables)),
        figures="\n".join(f'<figure><img src="{name}" alt="{_alt(name)}"></figure>' for name in pictures),
    )
    card = [f"Checkpoint `{checkpoint}`", *map(_markdown_table, tables)]
    for name, picture in pictures.items():
        write_atomically(Path(folder) / name, picture)
    write_atomically(Path(folder) / "report.md", ("\n\n".join(card) + "\n").encode())
    write_atomically(Path(folder) / "index.html", page.encode())


def _alt(picture: str) -> str:
    known = {"errors.png": "Histogram of logit errors", "sizes.png": "Sizes of the artifacts"}
    return known.get(picture, f"The graph of {Path(picture).stem}")


def _summary(gated: Sequence["Gated"]) -> Table:
    heading = ["format", "file", "bytes", "accuracy", "of the module", "same labels", "bit-equal logits"]
    rows = []
    for artifact in gated:
        verdict = artifact.verdict
        shares = (verdict.accuracy, verdict.module_accuracy, verdict.agreement, verdict.bit_equal)
        size = f"{len(artifact.data):,}"
        rows.append([artifact.format.name, artifact.format.file, size, *(f"{share:.2%}" for share in shares)])
    return heading, rows


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
            artifact.verdict.bound,
        ]
        for artifact in gated
        for comparison in artifact.verdict.comparisons
    ]
    return heading, rows


def _html_table(table: Table) -> str:
    heading, rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _markdown_table(table: Table) -> str:
    heading, rows = table
    rule = ["---", "---", *["---:"] * (len(heading) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *rows))


def _draw_errors(gated: Sequence["Gated"]) -> Figure:
    """How much of what rounding allows each artifact's validation logits use, on a logarithmic scale."""
    figure = Figure(figsize=(9, 1.0 + 1.2 * len(gated)), layout="constrained")
    edges = np.geomspace(1e-6, 2, 80)
    all_axes: Any = figure.subplots(len(gated), sharex=True, squeeze=False)[:, 0]
    for axes, artifact in zip(all_axes, gated, strict=True):
        axes.hist(np.maximum(artifact.verdict.shares.ravel(), edges[0]), edges, color=_INK)
        axes.axvline(1, color="#c0392b", linewidth=1.5)
        axes.set_ylabel(artifact.format.name, rotation=0, ha="right", va="center")
        axes.set_yticks([])
        _plain(axes)
    all_axes[0].set_title("Error of each validation logit as a share of its bound; past the red line an artifact fails")
    all_axes[-1].set_xscale("log")
    all_axes[-1].set_xlabel("share of the bound (0 is drawn at the left edge)")
    return figure


def _draw_sizes(gated: Sequence["Gated"]) -> Figure:
    figure = Figure(figsize=(9, 0.8 + 0.4 * len(gated)), layout="constrained")
    axes = figure.subplots()
    sizes = [len(artifact.data) / 1000 for artifact in gated]
    bars = axes.barh([artifact.format.name for artifact in gated], sizes, color=_INK)
    axes.bar_label(bars, [f"{size:,.1f} kB" for size in sizes], padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_title("Size, golden digits included")
    _plain(axes)
    axes.set_xticks([])
    return figure


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _draw_graph(artifact: "Gated") -> Figure:
    """The operators from top to bottom in the order in which they run, an arrow for each tensor between two.

    One that only unpacks weights is not drawn: the packed weights stand with the operator that takes them.
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
    figure = Figure(figsize=(9, 0.62 * (last + 1)), layout="constrained")
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
    axes.set(xlim=(-1, 1), ylim=(last + 0.5, -0.5), title=artifact.format.file)
    axes.axis("off")
    return figure


def _caption(node: NodeProto, weights: dict[str, Any]) -> str:
    arrays = [weights[name] for name in node.input if name in weights and weights[name].ndim]
    shapes = ", ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in arrays)
    return f"{node.op_type}   {shapes}".rstrip()


def _box(axes: "Axes", row: int, text: str) -> None:
    style = {"boxstyle": "round,pad=0.35", "facecolor": _PAPER, "edgecolor": _INK}
    axes.text(0, row, text, ha="center", va="center", fontsize=10, color=_INK, bbox=style)


def _arrow(axes: "Axes", start: int, end: int) -> None:
    """Straight to the next row, around what lies between to a later one."""
    bend = "arc3" if end == start + 1 else "arc3,rad=-0.5"
    arrow = {"arrowstyle": "-|>", "color": _LINE, "connectionstyle": bend, "shrinkA": 11, "shrinkB": 11}
    axes.annotate("", xy=(0, end), xytext=(0, start), arrowprops=arrow, zorder=0)


def _png(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120, metadata={"Software": None})
    return drawn.getvalue()
