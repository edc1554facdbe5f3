"""Drawings of digits and probabilities in a terminal."""

import os
import re
import shutil
from collections.abc import Sequence
from typing import TextIO

from mnist_runtime.digits import HEIGHT, WIDTH, Intensities

BAR_WIDTH = 24
_GAP = "   "
_BLACK, _GREYS = 232, 23  # xterm's 256 colours end in a ramp of 24 greys, 232 to 255
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_HALF_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def has_colour(stream: TextIO) -> bool:
    """Return True if `stream` takes colour.

    NO_COLOR (no-color.org) disables it, FORCE_COLOR enables it; otherwise a terminal takes colour unless it is dumb.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def draw_digit(digit: Intensities, *, colour: bool) -> list[str]:
    """Draw uint8 `[784]` as 14 lines of 28 half-blocks, two rows of pixels per line; in 24 greys if `colour`."""
    rows = digit.reshape(HEIGHT, WIDTH).tolist()
    pairs = zip(rows[::2], rows[1::2], strict=True)
    if not colour:
        return ["".join(_HALF_BLOCKS[top > 127, low > 127] for top, low in zip(*pair, strict=True)) for pair in pairs]
    return ["".join(_grey_block(top, low) for top, low in zip(*pair, strict=True)) + "\x1b[0m" for pair in pairs]


def draw_bars(probabilities: Sequence[float], *, colour: bool) -> list[str]:
    """Draw one bar per class, one per line; the most probable in bold if `colour`."""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    lines = [f"{label}  {_bar(probability)} {probability:7.2%}" for label, probability in enumerate(probabilities)]
    if colour:
        lines[best] = f"\x1b[1m{lines[best]}\x1b[0m"
    return lines


def beside(left: Sequence[str], right: Sequence[str]) -> str:
    """Set two drawings side by side, or one above the other where the terminal is too narrow for both.

    The right drawing, which is shorter, is centred against the left.
    """
    if WIDTH + len(_GAP) + max(len(_ESCAPES.sub("", line)) for line in right) > shutil.get_terminal_size().columns:
        return "\n".join([*left, "", *right])
    above = (len(left) - len(right)) // 2
    padded = [""] * above + list(right) + [""] * (len(left) - len(right) - above)
    return "\n".join(f"{a}{_GAP}{b}".rstrip() for a, b in zip(left, padded, strict=True))


def _bar(share: float) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[rest]).ljust(BAR_WIDTH)[:BAR_WIDTH]


def _grey_block(top: int, low: int) -> str:
    foreground, background = (_BLACK + round(level / 255 * _GREYS) for level in (top, low))
    return f"\x1b[38;5;{foreground};48;5;{background}m▀"
