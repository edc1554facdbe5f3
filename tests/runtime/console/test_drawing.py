"""Drawings of digits and probabilities."""

import io

import numpy as np
import pytest

from mnist_runtime.console.drawing import BAR_WIDTH, beside, draw_bars, draw_digit, has_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_character_is_two_pixels():
    digit = np.zeros((28, 28), np.uint8)
    digit[0, 0] = digit[1, 1] = digit[0, 2] = digit[1, 2] = 255
    lines = draw_digit(digit, colour=False)
    assert [len(line) for line in lines] == [28] * 14
    assert lines[0].rstrip() == "▀▄█"


def test_every_lit_pixel_of_a_real_digit_is_drawn(test_split):
    drawn = "".join(draw_digit(test_split.images[0].ravel(), colour=False))
    lit = drawn.count("▀") + drawn.count("▄") + 2 * drawn.count("█")
    assert lit == (test_split.images[0] > 127).sum()


def test_in_colour_the_greys_run_from_black_to_white():
    digit = np.zeros(784, np.uint8)
    digit[0] = 255
    first = draw_digit(digit, colour=True)[0]
    assert first.startswith("\x1b[38;5;255;48;5;232m▀\x1b[38;5;232;48;5;232m▀")
    assert first.endswith("\x1b[0m")


def test_bars_are_as_long_as_their_probabilities():
    bars = draw_bars([1.0, 0.5, 0.004, 0.0], colour=False)
    assert [bar.count("█") for bar in bars] == [BAR_WIDTH, BAR_WIDTH // 2, 0, 0]
    assert bars[2][3] == "▏"
    assert [bar[-7:] for bar in bars] == ["100.00%", " 50.00%", "  0.40%", "  0.00%"]
    assert len({len(bar) for bar in bars}) == 1


def test_the_most_probable_bar_is_bold_in_colour():
    bars = draw_bars([0.1, 0.9], colour=True)
    assert "\x1b" not in bars[0]
    assert bars[1].startswith("\x1b[1m1")


def test_the_shorter_drawing_is_centred_beside_the_longer():
    assert beside(["a", "b", "c", "d"], ["x", "y"]) == "a\nb   x\nc   y\nd"


@pytest.mark.parametrize(
    ("stream", "env", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (Terminal(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_follows_the_terminal_and_the_environment(monkeypatch, stream, env, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    assert has_colour(stream) is expected


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(("columns", "lines"), [(80, 14), (68, 14), (60, 25), (40, 25)])
def test_a_narrow_terminal_gets_the_bars_below_the_digit(monkeypatch, test_split, columns, lines, colour):
    monkeypatch.setenv("COLUMNS", str(columns))
    bars = draw_bars([0.1] * 10, colour=colour)
    drawn = beside(draw_digit(test_split.images[0].ravel(), colour=colour), bars).splitlines()
    assert len(drawn) == lines
    assert colour or max(map(len, drawn)) <= columns
