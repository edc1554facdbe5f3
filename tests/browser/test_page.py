"""The page in a real browser: real digits are drawn, and every control is operated."""

import io
import json
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from mnist_runtime import Classifier
from mnist_runtime.io.images import read_image

SEVEN = [[(7, 7), (12, 6.5), (20, 6.5), (19, 10), (16, 15), (13, 21), (12, 24)]]
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 3, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


@pytest.fixture
def photograph(test_split):
    """A test digit as a PNG of dark ink on light paper, and the label that the classifier gives to it."""

    def photograph(index):
        paper = np.full((300, 240), 236, np.uint8)
        ink = np.kron(test_split.images[index].reshape(28, 28), np.ones((6, 6), np.uint8))
        paper[60:228, 40:208] -= (ink * (200 / 255)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(paper).save(file, "PNG")
        return file.getvalue()

    return photograph


def test_digits_drawn_are_answered_as_the_classifier_answers_their_originals(page, strokes, test_split, classifier):
    drawing, hand = page(), strokes.Sheet()
    digits = test_split.images[:100].reshape(-1, 28, 28)
    answers = []
    for digit in digits:
        drawing.clear.evaluate("button => button.click()")
        drawing.draw(hand.strokes(digit))
        answers.append(drawing.label())
    agreed = int((np.array(answers) == classifier.predict(digits)).sum())
    print(f"{agreed} of 100 drawings answered as their originals")
    assert agreed >= 90
    assert not drawing.complaints


@pytest.mark.parametrize("index", [0, 1])
def test_a_digit_drawn_by_mouse_is_answered(page, strokes, test_split, classifier, index):
    drawing, digit = page(), test_split.images[index].reshape(28, 28)
    drawing.draw_by_mouse(strokes.Sheet().strokes(digit))
    assert drawing.label() == classifier.classify(digit).label


def test_a_digit_drawn_by_finger_is_answered_and_nothing_scrolls(page):
    drawing = page(**PHONE)
    box, session = drawing.sheet.bounding_box(), drawing.tab.context.new_cdp_session(drawing.tab)

    def touch(kind, *points):
        at = [{"x": box["x"] + x * box["width"] / 28, "y": box["y"] + y * box["height"] / 28} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    first, *others = SEVEN[0]
    touch("touchStart", first)
    for point in others:
        touch("touchMove", point)
    touch("touchEnd")
    assert drawing.label() == 7
    assert drawing.tab.evaluate("[scrollX, scrollY]") == [0, 0]


def test_the_page_shows_the_servers_answer_to_the_picture_it_sent(page, classifier):
    drawing = page()
    drawing.tab.evaluate(
        """() => {
          const ask = window.fetch;
          window.fetch = async (...all) => {
            const answer = await ask(...all);
            window.said = answer.clone().json();
            return answer;
          };
        }"""
    )
    drawing.draw(SEVEN)
    drawing.label()
    said = drawing.tab.evaluate("said")
    pixels = read_image(drawing.last_picture(), "what was sent")
    expected = classifier.classify(pixels)
    assert said["pixels"] == pixels.tolist() == seen(drawing)
    assert (said["label"], said["probabilities"]) == (expected.label, list(expected.probabilities))
    rows = [row.split() for row in drawing.tab.locator("#bars li").all_inner_texts()]
    assert rows == [[str(i), f"{100 * p:.2f}", "%"] for i, p in enumerate(expected.probabilities)]
    widths = "bars => bars.map(bar => +bar.style.getPropertyValue('--probability'))"
    assert drawing.tab.locator("#bars b").evaluate_all(widths) == pytest.approx(expected.probabilities)
    assert drawing.text("#label") == str(expected.label)
    assert drawing.tab.locator("#model").get_attribute("title") == f"SHA-256 {said['sha256']}"
    assert said["sha256"] in classifier.digests
    assert drawing.text("#model summary") == said["sha256"][:12]
    for name in ("round-trip", "preprocessing", "inference"):
        assert drawing.text(f"#{name}").endswith(" ms")


@pytest.mark.parametrize(
    ("strokes", "sentence", "label", "best"),
    [
        (SEVEN, "Probability", "7", 1),
        ([[(9, 5), (8, 14), (19, 14)], [(19, 4), (18, 25)], [(9, 5), (14, 4)]], "I am not sure", "9", 0),
        ([[(7, 5), (8, 20), (14, 23), (20, 19), (20, 5)]], "That is no digit", "\u2013", 0),
    ],
    ids=["digit", "unsure", "no digit"],
)
def test_only_an_answer_that_is_sure_is_shown_in_colour(page, strokes, sentence, label, best):
    drawing = page(reduced_motion="reduce")
    drawing.draw(strokes)
    drawing.wait_for("answered")
    assert drawing.text("#sentence").startswith(sentence)
    assert drawing.text("#label") == label
    colours = "bars => bars.map((bar) => getComputedStyle(bar).backgroundColor)"
    accent, ink = "rgb(47, 79, 216)", "rgb(23, 24, 28)"
    assert drawing.tab.locator("#bars b").evaluate_all(colours).count(accent) == best
    assert (drawing.tab.locator("#label").evaluate("label => getComputedStyle(label).color") == ink) == bool(best)


def test_the_bars_follow_the_pen_with_one_request_at_a_time_and_the_latest_wins(page):
    drawing, waiting = page(), []

    def hold(route):
        waiting.append(route)

    drawing.tab.route("**/digit", hold)
    drawing.draw_by_mouse([[(14, 4), (14, 12), (14, 20)], [(13, 20), (13, 4)], [(15, 4), (15, 20)]])
    while not waiting:
        drawing.tab.wait_for_timeout(10)
    assert len(waiting) == 1
    answered = 0
    while drawing.tab.locator("#answer").get_attribute("aria-busy") == "true":
        if answered < len(waiting):
            answered += 1
            waiting[answered - 1].continue_()
        drawing.tab.wait_for_timeout(10)
    assert answered == len(waiting) == 2
    assert drawing.label() == 1


def test_ink_along_the_whole_edge_is_still_ink(page):
    drawing = page()
    drawing.draw([[(1, 1), (27, 1), (27, 27), (1, 27), (1, 1)]])
    drawing.wait_for("answered")
    picture = np.reshape(seen(drawing), (28, 28))
    assert picture[14, 14] == 0
    assert [np.ptp(np.flatnonzero((picture > 128).any(axis=axis))) + 1 for axis in (0, 1)] == [20, 20]


def test_undo_reverts_each_stroke_and_clear(page):
    drawing = page()
    blank = ink(drawing)
    drawing.draw(SEVEN)
    drawing.label()
    one = ink(drawing)
    drawing.draw([[(10, 15), (20, 15)]])
    drawing.label()
    two = ink(drawing)
    assert blank == 0 < one < two
    drawing.undo.click()
    assert (drawing.label(), ink(drawing)) == (7, one)
    drawing.clear.click()
    drawing.wait_for("blank")
    assert ink(drawing) == 0
    drawing.tab.keyboard.press("Control+z")
    assert (drawing.label(), ink(drawing)) == (7, one)
    for key in ("Escape", "Delete"):
        drawing.tab.keyboard.press(key)
        drawing.wait_for("blank")
        drawing.tab.keyboard.press("Control+z")
        assert drawing.label() == 7
    drawing.tab.keyboard.press("Control+z")
    drawing.wait_for("blank")
    assert drawing.undo.is_disabled()
    assert drawing.clear.is_disabled()


def test_a_blank_sheet_predicts_nothing(page):
    drawing = page()
    drawing.wait_for("blank")
    assert drawing.questions == 0
    drawing.draw(SEVEN)
    drawing.label()
    asked = drawing.questions
    drawing.clear.click()
    drawing.wait_for("blank")
    assert drawing.text("#sentence") == "Nothing drawn yet"
    assert not drawing.tab.locator("#label").is_visible()
    assert not any(seen(drawing))
    assert not drawing.text("#bars").replace("\n", "").strip("0123456789")
    assert drawing.questions == asked


@pytest.mark.parametrize("way", ["open", "paste", "drop"])
def test_an_image_is_opened_pasted_or_dropped_and_sent_as_it_is(page, photograph, classifier, way):
    drawing, image = page(), photograph(3)
    if way == "open":
        with drawing.tab.expect_file_chooser() as chooser:
            drawing.tab.locator("#open").click()
        chooser.value.set_files({"name": "digit.png", "mimeType": "image/png", "buffer": image})
    else:
        drawing.drop(way, "image/png", "digit.png", image)
    assert drawing.label() == classifier.classify(read_image(image, "digit.png")).label
    assert drawing.last_picture() == image
    assert ink(drawing) > 0
    drawing.undo.click()
    drawing.wait_for("blank")


def test_drawing_over_an_image_begins_a_new_sheet(page, photograph):
    drawing = page()
    drawing.drop("drop", "image/png", "digit.png", photograph(3))
    drawing.label()
    drawing.draw(SEVEN)
    assert drawing.label() == 7
    corners = "[[1, 1], [26, 26]].map(([x, y]) => sheet.getContext('2d').getImageData(x * k, y * k, 1, 1).data[3])"
    assert drawing.sheet.evaluate(f"sheet => {{ const k = sheet.width / 28; return {corners} }}") == [0, 0]


def test_an_image_without_a_digit_shows_the_servers_sentence(page):
    drawing = page()
    file = io.BytesIO()
    Image.new("L", (100, 100), 200).save(file, "PNG")
    drawing.drop("paste", "image/png", "blank.png", file.getvalue())
    drawing.wait_for("refused")
    assert drawing.text("#sentence") == (
        "The image shows no digit: nothing stands out from its background; write bolder, light it evenly, or "
        "leave some background around it."
    )
    assert drawing.text("#announcement") == drawing.text("#sentence")
    assert not drawing.tab.locator("#label").is_visible()
    drawing.drop("drop", "text/plain", "notes.txt", b"no image at all")
    drawing.tab.locator("#sentence", has_text="is no image file").wait_for()
    drawing.draw(SEVEN)
    assert drawing.label() == 7


def test_an_image_that_is_too_large_is_refused(page):
    drawing = page()
    drawing.tab.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(30 * 2 ** 20)], "large.png", { type: "image/png" }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }"""
    )
    drawing.wait_for("refused")
    assert drawing.text("#sentence").startswith("The image is larger than this server takes; crop it")


def test_an_unreachable_server_is_reported_and_retried(page):
    drawing = page()
    drawing.tab.route("**/digit", lambda route: route.abort())
    drawing.draw(SEVEN)
    drawing.wait_for("unreachable")
    assert drawing.text("#sentence").startswith("The server does not answer; the sheet is kept")
    assert ink(drawing) > 0
    drawing.tab.unroute("**/digit")
    assert drawing.label() == 7


def test_a_busy_server_is_retried(page):
    drawing, busy = page(), json.dumps({"error": "the server is busy; try again in a second"})
    drawing.tab.route("**/digit", lambda route: route.fulfill(status=503, body=busy))
    drawing.draw(SEVEN)
    drawing.wait_for("refused")
    assert drawing.text("#sentence") == "The server is busy; try again in a second."
    drawing.tab.unroute("**/digit")
    assert drawing.label() == 7


def test_a_digit_is_drawn_and_every_control_operated_by_keyboard_alone(page):
    drawing = page()
    press = drawing.tab.keyboard.press
    press("Tab")
    assert focused(drawing) == "sheet"
    for _ in range(9):
        press("ArrowUp")
    press("Space")
    for _ in range(18):
        press("ArrowDown")
    press("Space")
    assert drawing.label() == 1
    asked, drawn = drawing.questions, ink(drawing)
    press("ArrowRight")  # the pen is up: it moves, and draws nothing
    drawing.wait_for("answered")
    assert drawing.questions == asked
    drawing.tab.keyboard.down("ArrowRight")
    drawing.tab.keyboard.down("ArrowUp")
    drawing.tab.keyboard.up("ArrowRight")
    drawing.tab.keyboard.up("ArrowUp")
    assert abs(ink(drawing) - drawn) < 0.1 * drawn  # but for the ring that shows the pen
    press("Tab")
    assert focused(drawing) == "undo"
    press("Enter")
    drawing.wait_for("blank")
    press("Shift+Tab")
    press("Control+z")
    press("Space")
    press("ArrowLeft")
    press("Space")
    drawing.label()
    press("Tab")
    press("Tab")
    assert focused(drawing) == "clear"
    press("Space")
    drawing.wait_for("blank")
    drawing.tab.locator("#open").focus()
    with drawing.tab.expect_file_chooser():
        press("Enter")
    drawing.draw(SEVEN)
    drawing.label()
    drawing.tab.locator("#model summary").focus()
    press("Enter")
    assert len(drawing.text("#model code").replace("\n", "")) == 64


@pytest.mark.parametrize("control", ["#sheet", "#undo", "#clear", "#open", "#model summary"])
def test_keyboard_focus_is_visible(page, control):
    drawing = page(reduced_motion="reduce")
    drawing.draw(SEVEN)
    drawing.label()
    before = drawing.tab.screenshot()
    drawing.tab.keyboard.press("Shift")  # from here on the keyboard is in use, as :focus-visible knows
    drawing.tab.locator(control).focus()
    drawing.tab.evaluate("new Promise(requestAnimationFrame)")
    assert changed_pixels(before, drawing.tab.screenshot()) > 150


def test_a_screen_reader_announces_the_answer_once_the_pen_is_up(page):
    drawing = page()
    assert drawing.tab.locator("#announcement").get_attribute("role") == "status"
    drawing.draw(SEVEN)
    drawing.label()
    assert drawing.tab.locator("#announcement").text_content() == f"7. {drawing.text('#sentence')}"
    tree = drawing.tab.locator("body").aria_snapshot()
    for name in (
        'button "Undo"',
        'button "Clear"',
        'button "Open image…"',
        'img "The 28 by 28 pixels',
        "Sheet to draw",
    ):
        assert name in tree


def test_no_other_host_is_contacted_and_the_browser_reports_no_error(page, photograph):
    drawing = page()
    drawing.draw(SEVEN)
    drawing.label()
    drawing.drop("paste", "image/png", "digit.png", photograph(0))
    drawing.label()
    assert {urlsplit(url).netloc for url in drawing.requests if not url.startswith("data:")} == {
        urlsplit(drawing.tab.url).netloc
    }
    assert drawing.complaints == []


def test_the_policy_lets_no_other_script_style_or_host_in(page):
    drawing = page()
    drawing.tab.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.intruded = true";
          document.body.append(script);
          document.body.setAttribute("style", "display: none");
        }"""
    )
    assert drawing.tab.evaluate("window.intruded") is None
    assert drawing.tab.locator("h1").is_visible()
    assert drawing.tab.evaluate("fetch('https://example.org/').then(() => 'fetched', () => 'refused')") == "refused"
    drawing.wait_for_refusals(3)


@pytest.mark.parametrize("width", [320, 360, 768, 840, 1280])
def test_the_page_fits_every_width_in_every_state(page, width):
    drawing = page(viewport={"width": width, "height": 740})

    def overflow():
        return drawing.tab.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert overflow() <= 0
    drawing.draw(SEVEN)
    drawing.label()
    assert len({bar.bounding_box()["height"] for bar in drawing.tab.locator("#bars li").all()}) == 1  # none wraps
    drawing.tab.locator("#model summary").click()
    assert overflow() <= 0
    drawing.drop("drop", "text/plain", "notes.txt", b"no image at all")
    drawing.wait_for("refused")
    assert overflow() <= 0


def test_buttons_are_large_enough_for_a_finger(page):
    drawing = page(**PHONE)
    for box in [button.bounding_box() for button in drawing.tab.locator("button").all()]:
        assert min(box["width"], box["height"]) >= 44  # WCAG 2.5.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page, scheme):
    drawing = page(color_scheme=scheme, reduced_motion="reduce")
    for state in ("blank", "answered"):
        if state == "answered":
            drawing.draw(SEVEN)
        drawing.wait_for(state)
        contrasts = drawing.contrasts()
        assert len(contrasts) > 15
        for text, contrast, needed in contrasts:
            assert contrast >= needed, f"{text!r} has a contrast of {contrast:.2f}, under {needed}"
    assert (drawing.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(247, 247, 244)") == (
        scheme == "light"
    )


def test_motion_is_reduced_on_request(page):
    def transition(motion):
        return (
            page(reduced_motion=motion).tab.locator("#bars b").first.evaluate("bar => getComputedStyle(bar).transition")
        )

    assert "transform" in transition("no-preference")
    assert "transform" not in transition("reduce")


@pytest.mark.parametrize("density", [1, 2, 3])
def test_the_sheet_has_the_screens_own_pixels(page, density):
    drawing = page(device_scale_factor=density)
    drawing.draw(SEVEN)
    drawing.label()
    drawing.tab.evaluate("new Promise(requestAnimationFrame)")
    assert drawing.sheet.evaluate("sheet => sheet.width / sheet.clientWidth") == pytest.approx(density, rel=0.01)


def seen(drawing):
    """Return the intensities that the page shows as the model's input."""
    data = drawing.tab.locator("#seen").evaluate("c => [...c.getContext('2d').getImageData(0, 0, 28, 28).data]")
    return data[::4]


def ink(drawing):
    """Return the number of pixels of the painted sheet that are covered."""
    drawing.tab.evaluate("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    return drawing.sheet.evaluate(
        """sheet => sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height).data
          .filter((value, i) => i % 4 === 3 && value > 127).length"""
    )


def focused(drawing):
    return drawing.tab.evaluate("document.activeElement.id")


def changed_pixels(before, after):
    pictures = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (before, after)]
    return int((np.abs(pictures[0] - pictures[1]).max(axis=2) > 24).sum())
