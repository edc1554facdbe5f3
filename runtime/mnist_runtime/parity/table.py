"""Report of `mnist-parity` and `mnist-export`: one line per comparison, and a drawing of the worst digit."""

from collections.abc import Sequence

from mnist_runtime.console.drawing import beside, draw_digit
from mnist_runtime.model.comparison import Comparison, Reference


def table(comparisons: Sequence[Comparison]) -> str:
    """Format a heading and one line per set of digits, 80 columns wide unless a name needs more."""
    width = max([18, *(len(c.name) + 1 for c in comparisons)])
    heading = f"{'':<{6 + width}}{'digits':>8}{'same label':>12}{'certified':>11}{'worst error':>13}{'of bound':>10}"
    lines = [
        f"{'ok' if c.passed else 'FAIL':<6}{c.name:<{width}}{c.count:>8,}{c.agreeing:>12,}{c.certified:>11,}"
        f"{c.worst_error:>13.1e}{c.worst_share:>10.2f}"
        for c in comparisons
    ]
    return "\n".join([heading, *lines])


def draw_worst(comparison: Comparison, reference: Reference, *, colour: bool) -> str:
    """Draw the digit with the worst error beside its trained logit; empty if nothing was compared."""
    if comparison.worst_share_at is None:
        return ""
    digit, label = comparison.worst_share_at
    lines = [
        f"digit {digit} of the {comparison.name}",
        f"class {label}: off by {comparison.worst_share:.3g} times what rounding allows",
        f"trained: {reference.logits[digit, label]:.9g} +- {reference.tolerance[digit, label]:.2g}",
    ]
    return beside(draw_digit(reference.digits[digit], colour=colour), lines)
