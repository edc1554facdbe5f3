"""The page with a network inside, opened from a file in a real browser without a network."""

import base64
import re

import numpy as np
import pytest

from mnist_runtime.page import offline

SEVEN = [[(7, 7), (12, 6.5), (20, 6.5), (19, 10), (16, 15), (13, 21), (12, 24)]]


def seen(drawing):
    """Return the pixels that the page shows, uint8 `[784]`."""
    data = drawing.tab.locator("#seen").evaluate("c => [...c.getContext('2d').getImageData(0, 0, 28, 28).data]")
    return np.array(data[::4], np.uint8)


def proven(drawing):
    drawing.tab.locator("#proven", has_text="23 of 23 equal, bit for bit, in this browser").wait_for()
    return drawing


def open_proof(drawing):
    """Open the proof, and wait until all golden digits are on the screen."""
    drawing.tab.locator("#proof summary").click()
    drawing.tab.locator("#golden li").nth(22).wait_for()


def damage_shown(drawing):
    drawing.tab.locator("#damage").wait_for()
    return drawing.text("#damage")


def test_drawn_digits_are_read_and_nothing_is_requested(from_file, inside, strokes, test_split):
    drawing, digits = from_file(), test_split.images[:20].reshape(-1, 28, 28)
    labels, own = [], inside.network.logits(test_split.images[:20].reshape(-1, 784)).argmax(axis=1)
    for digit in digits:
        drawing.clear.evaluate("button => button.click()")
        drawing.draw(strokes.Sheet().strokes(digit))
        labels.append(drawing.label())
        logits = inside.network.logits(seen(drawing)[None])[0]
        scores = np.exp(np.ldexp(logits.astype(float), inside.network.exponent))
        assert labels[-1] == logits.argmax()
        rows = [row.split()[:2] for row in drawing.tab.locator("#bars li").all_inner_texts()]
        assert rows == [[str(i), f"{100 * p:.2f}"] for i, p in enumerate(scores / scores.sum())]
    assert (labels == own).mean() >= 0.8
    assert [url for url in drawing.requests if not url.startswith("data:")] == [drawing.tab.url]
    assert [text for text in drawing.complaints if "willReadFrequently" not in text] == []  # this test reads #seen


def test_the_proof_replays_all_golden_digits_on_the_screen(from_file, inside):
    drawing = proven(from_file())
    assert drawing.tab.locator("#golden li").count() == 0
    open_proof(drawing)
    assert drawing.tab.locator("#golden li.equal").count() == 23
    assert drawing.tab.locator("#golden canvas").first.get_attribute("aria-label") == "1: equal"
    published = re.search(rb'goldenSha256: "(\w{64})"', inside.module)[1].decode()
    assert [drawing.text(f"#{name}") for name in ("computed", "published")] == [published] * 2
    assert [drawing.text(f"#{name}") for name in ("checkpoint", "validation")] == ["c" * 64, "d" * 64]


def test_controls_that_need_a_server_are_hidden(from_file):
    drawing = from_file()
    for text in ("Open image", "pasted or dropped", "Round trip", "Drawings go to this server"):
        assert not drawing.tab.get_by_text(text).first.is_visible()
    assert drawing.tab.get_by_text("no server, no connection").is_visible()
    drawing.drop("drop", "text/plain", "notes.txt", b"no image at all")
    drawing.wait_for("blank")


def test_keyboard_alone_draws_undoes_and_opens_the_proof(from_file):
    drawing = proven(from_file())
    press = drawing.tab.keyboard.press
    press("Tab")
    for key, times in (("ArrowUp", 9), ("Space", 1), ("ArrowDown", 18), ("Space", 1)):
        for _ in range(times):
            press(key)
    drawing.label()
    assert drawing.tab.locator("#announcement").text_content().startswith(drawing.text("#label") + ". ")
    for _ in range(4):  # undo, clear, model, proof
        press("Tab")
    press("Enter")
    assert drawing.tab.locator("#golden").is_visible()
    press("Escape")
    drawing.wait_for("blank")
    press("Control+z")
    drawing.label()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_every_width_fits_and_every_text_has_enough_contrast(from_file, width, scheme):
    size = {"width": width, "height": 740}
    drawing = proven(from_file(viewport=size, color_scheme=scheme, reduced_motion="reduce"))
    drawing.draw(SEVEN)
    drawing.label()
    open_proof(drawing)
    assert drawing.overflow() <= 0
    contrasts = drawing.contrasts()
    assert len(contrasts) > 25
    assert [text for text, contrast, needed in contrasts if contrast < needed] == []


def damaged(module, table=rb'"weight"', place=0):
    """Flip one bit of the first weight of the first layer, or of another byte."""
    text = re.search(table + rb': "([^"]+)"', module)[1]
    data = bytearray(base64.b64decode(text))
    data[place] ^= 1
    return module.replace(text, base64.b64encode(data))


def test_a_damaged_weight_is_found_by_the_policy_and_shown(from_file, inside):
    drawing = from_file(inside.page.replace(inside.module, damaged(inside.module)))
    sentence = "The network inside this page is damaged: its SHA-256 is not the published one; get the page again."
    assert damage_shown(drawing) == sentence
    drawing.draw(SEVEN)
    drawing.wait_for("refused")
    assert drawing.text("#sentence") == drawing.text("#proven") == sentence


def test_a_damaged_weight_under_a_policy_made_anew_is_found_by_the_page_and_its_layer_shown(from_file, inside):
    drawing = from_file(offline(damaged(inside.module)))
    assert damage_shown(drawing) == "The weights of layer 1 inside this page are damaged; get the page again."
    drawing.draw(SEVEN)
    drawing.wait_for("refused")
    assert not drawing.tab.locator("#label").is_visible()


def test_a_browser_that_computes_something_else_is_found_and_shown(from_file, inside):
    wrong = inside.module.replace(b"bias[i] + (i % 2", b"1 + bias[i] + (i % 2")
    sentence = "Layer 1 makes something else of golden digit 1 than was published; use another browser."
    assert damage_shown(from_file(offline(wrong))) == sentence


def test_a_damaged_golden_digit_is_found_and_shown(from_file, inside):
    drawing = from_file(offline(damaged(inside.module, rb"golden", 700)))
    assert damage_shown(drawing) == "Golden digit 4 inside this page is damaged; get the page again."
    drawing.tab.locator("#proof summary").click()
    drawing.tab.locator("#golden li").nth(3).wait_for()
    assert drawing.tab.locator("#golden li").evaluate_all("all => all.map((each) => each.className)") == [
        *["equal"] * 3,
        "differs",
    ]


def test_a_page_whose_own_script_is_damaged_says_so(from_file, inside):
    drawing = from_file(inside.page.replace(b"const PATIENCE = 10_000", b"const PATIENCE = 10_001"))
    assert damage_shown(drawing) == "This page\u2019s script does not run: JavaScript is off, or the file is damaged."


def test_the_policy_lets_no_other_script_and_no_host_in(from_file):
    drawing = from_file()
    drawing.tab.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.intruded = true";
          document.body.append(script);
        }"""
    )
    assert drawing.tab.evaluate("window.intruded") is None
    assert drawing.tab.evaluate("fetch('mnist.html').then(() => 'fetched', () => 'refused')") == "refused"
    drawing.wait_for_refusals(2)
