"""Drawings of digits and probabilities in a terminal."""

import os
from collections.abc import Sequence
from typing import TextIO

from mnist_runtime.digits import HEIGHT, WIDTH, Intensities

BAR_WIDTH = 24
_BLACK, _GREYS = 232, 23  # xterm's 256 colours end in a ramp of 24 greys, 232 to 255
_HALF_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def has_colour(stream: TextIO) -> bool:
    """Return True if `stream` takes colour: a terminal, and NO_COLOR is not set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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


def beside(left: Sequence[str], right: Sequence[str], *, gap: str = "   ") -> str:
    """Set two drawings side by side; the right one, which is shorter, is centred against the left."""
    above = (len(left) - len(right)) // 2
    padded = [""] * above + list(right) + [""] * (len(left) - len(right) - above)
    return "\n".join(f"{a}{gap}{b}".rstrip() for a, b in zip(left, padded, strict=True))


def _bar(share: float) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[rest]).ljust(BAR_WIDTH)[:BAR_WIDTH] if full < BAR_WIDTH else "█" * BAR_WIDTH


def _grey_block(top: int, low: int) -> str:
    foreground, background = (_BLACK + round(level / 255 * _GREYS) for level in (top, low))
    return f"\x1b[38;5;{foreground};48;5;{background}m▀"
