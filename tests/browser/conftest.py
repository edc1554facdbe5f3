"""A real mnist-serve, a page in a file and a real Chromium: the page as a person meets it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from mnist_export.exact.js import to_module
from mnist_export.exact.network import ExactNetwork
from mnist_export.exact.rounding import exact
from mnist_export.golden import golden_digits
from mnist_runtime.page import offline
from mnist_runtime.verdicts import Thresholds
from mnist_train.checkpoint import load
from mnist_train.data.bundled import load_split

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MISSING = "THE PAGE IS NOT TESTED because Chromium is missing; install it (Debian: apt install chromium) and test again"
WAIT = 60_000  # ms; a loaded machine is slow

DRAW = """strokes => {
  const sheet = document.querySelector("#sheet"), box = sheet.getBoundingClientRect();
  const fire = (type, [x, y]) => sheet.dispatchEvent(new PointerEvent(type, {
    bubbles: true, pointerId: 7, pointerType: "pen", isPrimary: true, button: 0, buttons: 1,
    clientX: box.left + x * box.width / 28, clientY: box.top + y * box.height / 28,
  }));
  for (const [first, ...others] of strokes) {
    fire("pointerdown", first);
    for (const point of others) fire("pointermove", point);
    fire("pointerup", others.at(-1) ?? first);
  }
}"""

KEEP_PICTURES = """{
  const ask = window.fetch;
  window.pictures = [];
  window.fetch = (url, options) => {
    window.pictures.push(options?.body);
    return ask(url, options);
  };
}"""  # of a Blob that is sent, DevTools tell no byte


CONTRASTS = """() => {
  const parse = (colour) => (colour.match(/[0-9.]+/g) ?? []).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(element).backgroundColor);
      if (alpha === 1) return [r, g, b];
    }
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, style = getComputedStyle(element);
    if (!texts.currentNode.data.trim() || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })
      || element.closest(":disabled, script, noscript")) continue;
    const [lighter, darker] = [parse(style.color).slice(0, 3), ground(element)].map(luminance).sort((a, b) => b - a);
    const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    found.push([texts.currentNode.data.trim(), (lighter + 0.05) / (darker + 0.05), needed]);
  }
  return found;
}"""  # WCAG 1.4.3; a control that is off is exempt


@pytest.fixture(scope="session")
def strokes() -> ModuleType:
    """strokes.py beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("strokes", Path(__file__).with_name("strokes.py"))
    assert spec
    module = sys.modules["strokes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM:
        (pytest.fail if os.environ.get("REQUIRE_CHROMIUM") else pytest.skip)(MISSING)
    with (
        sync_playwright() as playwright
    ):  # per module, because no other test can have an event loop while Playwright runs
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running mnist-serve."""
    with serving(tmp_path_factory.mktemp("serving")) as address:
        yield address


@pytest.fixture
def short_lived_server(tmp_path: Path) -> AbstractContextManager[str]:
    """A mnist-serve of this test alone, which runs while the context lasts."""
    return serving(tmp_path)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Run mnist-serve with the bundled model in an empty folder, and yield its address."""
    clean = {key: value for key, value in os.environ.items() if key != "MNIST_MODEL"}
    command = [Path(sys.executable).parent / "mnist-serve", "--port", "0", "--log-format", "json", "--no-access-log"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=home, env=clean) as process:
        assert process.stderr
        for line in process.stderr:
            if "url" in (said := json.loads(line)):
                yield said["url"] + "/"
                break
        process.terminate()
        process.communicate(timeout=60)


class Drawing:
    """The page in a tab, with its requests and its errors."""

    def __init__(self, tab: Page, address: str) -> None:
        self.tab = tab
        self.complaints: list[str] = []
        self.requests: list[str] = []
        tab.set_default_timeout(WAIT)
        tab.on("console", lambda message: message.type in {"error", "warning"} and self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("filechooser", lambda _: None)  # told at the click, Chromium may open one itself
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.add_init_script(KEEP_PICTURES)
        tab.goto(address)
        self.sheet, self.undo, self.clear = (tab.locator(name) for name in ("#sheet", "#undo", "#clear"))

    @property
    def questions(self) -> int:
        """Number of pictures sent."""
        return sum(url.endswith("/digit") for url in self.requests)

    def last_picture(self) -> bytes:
        """Return the bytes of the last picture sent."""
        return bytes(self.tab.evaluate("pictures.at(-1).arrayBuffer().then(bytes => [...new Uint8Array(bytes)])"))

    def draw(self, strokes: list[list[tuple[float, float]]]) -> None:
        """Draw polylines of (x, y), 0-28, as fast as events can be made."""
        self.tab.evaluate(DRAW, strokes)

    def draw_by_mouse(self, strokes: list[list[tuple[float, float]]]) -> None:
        box = self.sheet.bounding_box()
        assert box
        for points in strokes:
            at = [(box["x"] + x * box["width"] / 28, box["y"] + y * box["height"] / 28) for x, y in points]
            self.tab.mouse.move(*at[0])
            self.tab.mouse.down()
            for point in at[1:]:
                self.tab.mouse.move(*point)
            self.tab.mouse.up()

    def wait_for(self, state: str) -> Locator:
        """Wait until the page has no pending request and is in a state: blank, answered, refused or unreachable."""
        answer = self.tab.locator(f"#answer[aria-busy=false][data-state={state}]")
        answer.wait_for()
        return answer

    def wait_for_refusals(self, count: int) -> None:
        """Wait until the browser has reported that the page's policy refused something so many times."""
        while sum("Content Security Policy" in text for text in self.complaints) < count:
            self.tab.wait_for_timeout(10)

    def label(self) -> int | None:
        """Return the label that the page shows for the drawing; None if it says that this is no digit."""
        self.wait_for("answered")
        shown = self.text("#label")
        return int(shown) if shown.isdigit() else None

    def text(self, selector: str) -> str:
        return self.tab.locator(selector).inner_text()

    def overflow(self) -> int:
        """Return the pixels by which the page is wider than the window."""
        return int(self.tab.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def contrasts(self) -> list[tuple[str, float, float]]:
        """Return each visible text with its contrast and the contrast that it needs."""
        return list(self.tab.evaluate(CONTRASTS))

    def drop(self, event: str, kind: str, name: str, data: bytes) -> None:
        """Paste or drop a file: an event with a DataTransfer that holds it."""
        self.tab.evaluate(
            """([type, kind, name, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], name, { type: kind }));
              const init = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
              const Kind = type === "paste" ? ClipboardEvent : DragEvent;
              document.body.dispatchEvent(new Kind(type, init));
            }""",
            [event, kind, name, list(data)],
        )


@pytest.fixture
def page(chromium: Browser, server: str) -> Iterator[Callable[..., Drawing]]:
    """Open a page, by default that of `server`, in a fresh profile with Playwright's options."""
    contexts = []

    def page(address: str = server, **options: Any) -> Drawing:
        contexts.append(chromium.new_context(**options))
        return Drawing(contexts[-1].new_page(), address)

    yield page
    for context in contexts:
        context.close()


@dataclass(frozen=True)
class Inside:
    """The network inside a page, its print and the page."""

    network: ExactNetwork
    module: bytes
    page: bytes


@pytest.fixture(scope="session")
def inside(trained: Path) -> Inside:
    """The trained linear model inside a page."""
    network = exact(load(trained / "mnist.safetensors").module, load_split("train").images[:1000].reshape(-1, 784))
    golden = golden_digits(load_split("valid"))
    module = to_module(network, golden, Thresholds(), checkpoint="c" * 64, logits_sha256="d" * 64)
    return Inside(network, module, offline(module))


@pytest.fixture
def from_file(chromium: Browser, inside: Inside, tmp_path: Path) -> Iterator[Callable[..., Drawing]]:
    """Open a page, by default that of `inside`, from a file in a fresh profile that has no network."""
    contexts = []

    def from_file(page: bytes = inside.page, **options: Any) -> Drawing:
        (tmp_path / "mnist.html").write_bytes(page)
        contexts.append(chromium.new_context(offline=True, **options))
        return Drawing(contexts[-1].new_page(), (tmp_path / "mnist.html").as_uri())

    yield from_file
    for context in contexts:
        context.close()
