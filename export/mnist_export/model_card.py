"""Report of `mnist-export`: index.html with pictures, and report.md to paste into a model card; needs matplotlib."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto, numpy_helper

from mnist_export.golden import VALIDATION
from mnist_export.risk import Confidences, curve
from mnist_export.summary import NOTE, Table
from mnist_runtime.classifier import Classifier
from mnist_runtime.io.files import write_atomically
from mnist_runtime.verdicts import VERDICTS
from mnist_train.data.bundled import load_split
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
    from mnist_export.golden import Expected

require_matplotlib()

from mnist_export.strangers import strangers  # noqa: E402  # needs matplotlib, too


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
    figures = {
        "errors.png": ("Histogram of logit errors", _draw_errors(gated)),
        "sizes.png": ("Sizes of the artifacts", _draw_sizes(gated)),
        "risk.png": ("Risk over coverage", _draw_risk(gated)),
        "reliability.png": ("Reliability diagram", _draw_reliability(gated)),
    }
    graphs = {artifact.data: artifact for artifact in reversed(gated) if artifact.format.is_onnx}
    for artifact in reversed(graphs.values()):  # each graph once, because "triton" has the bytes of "onnx"
        name = artifact.format.name
        figures[f"{name}.png"] = (f"The graph of {name}", _draw_graph(artifact))
    tables = {
        "Artifacts": _with_shares(summary, gated),
        "Parity with the trained module": _parity(gated),
        "Stated risks on the validation digits": _thresholds(gated),
    }
    if shown := _strangers(gated):
        tables["What was not trained on"] = shown
    page = to_page(
        "What was exported, and how it was proved",
        f"<p>Checkpoint <code>{checkpoint}</code></p>",
        *(f"<h2>{title}</h2>\n{to_table(rows, heading)}" for title, (heading, rows) in tables.items()),
        f"<p>{NOTE}</p>",
        *(to_image(name, description) for name, (description, _) in figures.items()),
    )
    card = [f"Checkpoint `{checkpoint}`", *map(_markdown_table, tables.values()), NOTE]
    for name, (_, figure) in figures.items():
        write_atomically(Path(folder) / name, to_png(figure))
    write_atomically(Path(folder) / "report.md", ("\n\n".join(card) + "\n").encode())
    write_atomically(Path(folder) / "index.html", page)


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


def _thresholds(gated: Sequence["Gated"]) -> Table:
    """Tabulate the cost of each stated risk on the validation digits."""
    heading = ["format", "stated risk", "least confidence", "answered", "right among them", "called no digit"]
    rows = []
    for artifact in gated:
        expected = artifact.expected
        answers = Confidences.of(expected.sets[VALIDATION].logits)
        is_none = answers.are_none(expected.thresholds.odds)
        right = answers.labels == expected.labels
        for risk, least in expected.thresholds.confidence.items():
            answered = ~is_none & (answers.confidence >= least)
            shares = (answered.mean(), right[answered].mean(), is_none.mean())
            rows.append([artifact.format.name, f"{risk:.1%}", f"{least:.4f}", *(f"{share:.2%}" for share in shares)])
    return heading, rows


def _strangers(gated: Sequence["Gated"]) -> Table | None:
    """Tabulate the answers of a graph, the exact one if it was exported, to pictures unlike its training digits."""
    graphs = sorted((each for each in gated if each.format.is_onnx), key=lambda each: not each.format.lossy)
    if not graphs:
        return None
    data, risks = graphs[0].data, sorted(graphs[0].expected.thresholds.confidence)
    classifiers = [Classifier(data, max_error=risk) for risk in risks] or [Classifier(data)]
    heading = [f"pictures shown to {graphs[0].format.name}", "read", *(f"answered at {risk:.1%}" for risk in risks)]
    rows = []
    for kind, digits in strangers(load_split("valid")).items():
        verdicts = [np.array(VERDICTS)[classifier.compute(digits).verdicts] for classifier in classifiers]
        shares = [*((found == "digit").mean() for found in verdicts[: len(risks)]), (verdicts[0] == "no digit").mean()]
        rows.append([kind, str(len(digits)), *(f"{share:.0%}" for share in shares)])
    return [*heading, "called no digit"], rows


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


def _networks(gated: Sequence["Gated"]) -> dict[str, "Expected"]:
    """Return the expected logits of each network, by its name: "trained" or "exact"."""
    names = {True: "exact", False: "trained"}
    return {names[artifact.expected.proof.bound == "exact"]: artifact.expected for artifact in gated}


def _draw_risk(gated: Sequence["Gated"]) -> "Figure":
    """Draw the share of wrong labels among the answers over the share of answered validation digits."""
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    for (name, expected), colour in zip(_networks(gated).items(), (BLUE, INK), strict=False):
        answers = Confidences.of(expected.sets[VALIDATION].logits)
        _, wrong = curve(answers.confidence, answers.labels != expected.labels)
        count = np.arange(1, len(wrong) + 1)
        axes.plot(100 * count / len(count), 100 * wrong / count, color=colour, label=f"{name} network", linewidth=1.5)
        for risk, least in expected.thresholds.confidence.items():
            covered = 100 * (answers.confidence >= least).mean()
            axes.plot(covered, 100 * risk, "o", color=RED)
            axes.annotate(
                f"confidence {least:.4f}", (covered, 100 * risk), (-8, 8), textcoords="offset points", ha="right"
            )
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("validation digits answered, the surest first (%)")
    axes.set_ylabel("wrong among them (%)")
    axes.legend(frameon=False, loc="upper left")
    hide_spines(axes, "top", "right")
    set_title(axes, "Risk over coverage; red: the thresholds of the stated risks")
    return figure


def _draw_reliability(gated: Sequence["Gated"]) -> "Figure":
    """Draw the share of right labels over their confidence, with the number of digits below."""
    figure = new_figure(9, 5.5)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, 11)
    above.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
    for (name, expected), colour in zip(_networks(gated).items(), (BLUE, INK), strict=False):
        answers = Confidences.of(expected.sets[VALIDATION].logits)
        right = answers.labels == expected.labels
        bins = np.clip(np.digitize(answers.confidence, edges) - 1, 0, 9)
        counts = np.bincount(bins, minlength=10)
        kept = counts > 0
        mean, share = (np.bincount(bins, values, 10)[kept] / counts[kept] for values in (answers.confidence, right))
        above.plot(100 * mean, 100 * share, "o-", color=colour, label=f"{name} network")
        gap = (np.abs(mean - share) * counts[kept]).sum() / len(right)
        below.step(100 * edges, [*counts, counts[-1]], where="post", color=colour, label=f"calibration error {gap:.3f}")
    above.set_ylabel("right (%)")
    below.set_yscale("log")
    below.set_ylabel("digits")
    below.set_xlabel("confidence (%)")
    for axes, place in ((above, "lower right"), (below, "upper left")):
        axes.legend(frameon=False, loc=place)
        hide_spines(axes, "top", "right")
    set_title(above, "Reliability: how often a label of some confidence is right")
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
    """Draw the operators from top to bottom in the order of their runs, with an arrow per tensor between two.

    An operator that only unpacks weights is not drawn; the operator that takes them shows the packed weights.
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
    _box(axes, last, ",  ".join(f"{value.name}  float32 {_shape(value)}" for value in graph.output))
    for value in graph.output:
        _arrow(axes, made[value.name], last)
    axes.set(xlim=(-1, 1), ylim=(last + 0.5, -0.5))
    set_title(axes, artifact.format.file)
    axes.axis("off")
    return figure


def _shape(value: ValueInfoProto) -> str:
    return f"[{', '.join(side.dim_param or str(side.dim_value) for side in value.type.tensor_type.shape.dim)}]"


def _caption(node: NodeProto, weights: dict[str, Any]) -> str:
    arrays = [weights[name] for name in node.input if name in weights and weights[name].ndim]
    shapes = ", ".join(f"{array.dtype} {'x'.join(map(str, array.shape))}" for array in arrays)
    return f"{node.op_type}   {shapes}".rstrip()


def _box(axes: "Axes", row: int, text: str) -> None:
    style = {"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": INK}
    axes.text(0, row, text, ha="center", va="center", fontsize=10, color=INK, bbox=style)


def _arrow(axes: "Axes", start: int, end: int) -> None:
    """Draw an arrow: straight to the next row, bent around other rows to a later one."""
    bend = "arc3" if end == start + 1 else "arc3,rad=-0.5"
    arrow = {"arrowstyle": "-|>", "color": GREY, "connectionstyle": bend, "shrinkA": 11, "shrinkB": 11}
    axes.annotate("", xy=(0, end), xytext=(0, start), arrowprops=arrow, zorder=0)
