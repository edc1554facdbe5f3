"""The page as an app: a real Chromium can install it from a server, and opens it without a network."""

import os
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Error

from mnist_runtime.page import app_files

SEVEN = [[(7, 7), (12, 6.5), (20, 6.5), (19, 10), (16, 15), (13, 21), (12, 24)]]


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Write no access log."""


@contextmanager
def hosting(folder):
    """Serve a folder as a host of static files does, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path, inside):
    """Write a folder as mnist-export does for the format html."""
    for name, data in {"mnist.html": inside.page, **app_files("mnist.html")}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def installed(drawing):
    """Wait until the browser has the worker and the manifest; return the manifest, parsed, which must install."""
    drawing.tab.evaluate("navigator.serviceWorker.ready.then(() => {})")
    drawing.tab.locator("link[rel=manifest]").wait_for(state="attached")
    devtools = drawing.tab.context.new_cdp_session(drawing.tab)
    manifest = devtools.send("Page.getAppManifest")
    assert manifest["errors"] == []
    obstacles = [each["errorId"] for each in devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]]
    assert obstacles == ["in-incognito"]  # as every fresh profile of Playwright
    return manifest["manifest"]


def test_mnist_html_is_installed_from_a_host_and_then_reads_digits_without_it(page, inside, folder):
    with hosting(folder) as address:
        drawing = page(address + "mnist.html")
        assert installed(drawing)["startUrl"] == address + "mnist.html"
    drawing.tab.reload()
    drawing.draw(SEVEN)
    assert drawing.label() is not None
    drawing.tab.locator("#proven", has_text="23 of 23 equal").wait_for()


def test_the_page_of_mnist_serve_is_installed_and_then_opens_without_it(page, short_lived_server):
    with short_lived_server as address:
        drawing = page(address)
        assert installed(drawing)["startUrl"] == address
    drawing.tab.reload()
    drawing.draw(SEVEN)
    drawing.wait_for("unreachable")
    assert drawing.text("#sentence").startswith("The server does not answer; the sheet is kept")


def test_the_app_without_a_network_keeps_the_policy_of_the_page(page, short_lived_server):
    with short_lived_server as address:
        drawing = page(address)
        installed(drawing)
    drawing.tab.reload()
    drawing.tab.evaluate(
        "() => document.body.append(Object.assign(document.createElement('script'), { text: 'window.intruded = 1' }))"
    )
    assert drawing.tab.evaluate("window.intruded") is None
    drawing.wait_for_refusals(1)


def test_an_installed_page_is_the_newest_that_its_host_has(page, inside, folder):
    with hosting(folder) as address:
        drawing = page(address + "mnist.html")
        installed(drawing)
        (folder / "mnist.html").write_bytes(inside.page.replace(b"<h1>Draw a digit", b"<h1>Draw two digits"))
        later = time.time() + 60  # because Last-Modified counts whole seconds
        os.utime(folder / "mnist.html", (later, later))
        drawing.tab.reload()
        assert drawing.text("h1") == "Draw two digits"
    drawing.tab.reload()
    assert drawing.text("h1") == "Draw two digits"


def test_the_worker_leaves_other_pages_of_the_folder_alone(page, folder):
    (folder / "mnist.html.txt").write_text("another file")
    with hosting(folder) as address:
        drawing = page(address + "mnist.html")
        installed(drawing)
        drawing.tab.goto(address + "mnist.html.txt")
        assert drawing.text("body") == "another file"
    with pytest.raises(Error, match="ERR_CONNECTION_REFUSED"):
        drawing.tab.reload()


def test_without_the_files_beside_it_a_served_page_works_and_is_no_app(page, folder):
    for name in app_files("mnist.html"):
        (folder / name).unlink()
    with hosting(folder) as address:
        drawing = page(address + "mnist.html")
        drawing.draw(SEVEN)
        assert drawing.label() is not None
        assert drawing.tab.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 0
        assert drawing.tab.locator("link[rel=manifest]").count() == 0


def test_a_page_from_a_file_never_tries_to_register_a_worker(chromium, folder):
    with chromium.new_context() as context:
        tab = context.new_page()
        tab.add_init_script(
            "window.attempts = []; const { register } = ServiceWorkerContainer.prototype;"
            "ServiceWorkerContainer.prototype.register = function (...all) {"
            "  attempts.push(all[0]); return register.apply(this, all); }"
        )
        tab.goto((folder / "mnist.html").as_uri())
        tab.locator("#proven", has_text="23 of 23 equal").wait_for()
        assert tab.evaluate("attempts") == []
        with hosting(folder) as address:
            tab.goto(address + "mnist.html")
            assert tab.evaluate("attempts") == ["mnist.worker.js"]
