"""Style of figures, PNG files and HTML page of the reports of `mnist-train` and `mnist-export`.

matplotlib, which is optional, is imported when the first figure is made.
"""

import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mnist_train.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, PAPER = "#1f2933", "#9aa5b1", "#eef3f9"
BLUE, RED = "#2563eb", "#dc2626"

_DPI = 144
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
  h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .5rem }}
  img {{ max-width: 100%; height: auto }} code {{ overflow-wrap: anywhere }}
  table {{ border-collapse: collapse; font-size: .9rem }}
  th, td {{ padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e4e7eb; text-align: right }}
  th {{ font-weight: 500; color: #52606d }} td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere }}
  th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def require_matplotlib() -> None:
    """Raise unless figures can be drawn, so that a command can refuse `--report` before the work begins.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "--report") from error


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure of `width` x `height` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def set_title(axes: "Axes", title: str) -> None:
    """Write `title` above the left end of `axes`."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)


def hide_spines(axes: "Axes", *sides: str) -> None:
    """Remove the spines on `sides`; draw the other spines in grey and the ticks in ink."""
    axes.spines[:].set_color(GREY)
    axes.spines[list(sides)].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def to_png(figure: "Figure") -> bytes:
    """Return `figure` as a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_page(title: str, *sections: str) -> bytes:
    """Return an HTML page in UTF-8; `title` is text, and `sections` are HTML."""
    return _PAGE.format(title=html.escape(title), body="\n".join(sections)).encode()


def to_table(rows: Iterable[Sequence[object]], heading: Sequence[str] = ()) -> str:
    """Return an HTML table, with a row of headings if there are any."""
    lines = [_row("th", heading)] if heading else []
    return "\n".join(["<table>", *lines, *(_row("td", row) for row in rows), "</table>"])


def to_image(name: str, description: str) -> str:
    """Return the HTML that shows the picture `name`, described for those who cannot see it."""
    return f'<figure><img src="{html.escape(name)}" alt="{html.escape(description)}"></figure>'


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
