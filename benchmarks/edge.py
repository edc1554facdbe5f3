"""Speed and size of exact networks in onnxruntime, C and JavaScript, beside the float graph and onnxruntime-web.

The convolutional network is trained briefly, because its speed does not depend on its accuracy; its accuracy is
measured nevertheless. Times are the least of many on one thread, measured in turn with the alternative.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from _claim import Claim, report
from _process import measure
from playwright.sync_api import Browser, sync_playwright
from torch import nn

from mnist_export.exact.c import to_header
from mnist_export.exact.js import to_module
from mnist_export.exact.network import ExactNetwork
from mnist_export.exact.onnx import to_graph
from mnist_export.exact.rounding import CALIBRATION_DIGITS, exact
from mnist_export.golden import golden_digits
from mnist_export.onnx import to_onnx, trace, uint8_graph
from mnist_export.outputs import with_outputs
from mnist_runtime.model.session import SessionSettings
from mnist_runtime.page import offline
from mnist_runtime.verdicts import Thresholds
from mnist_train.data.bundled import load_split
from mnist_train.models import CNN, MNISTLogistic

STEPS = int(os.environ.get("STEPS", "250"))
TIMER = r"""
#define _POSIX_C_SOURCE 199309L
#include "mnist.h"
#include <stdio.h>
#include <time.h>
int main(void)
{
    static uint8_t pixels[784];
    int32_t logits[MNIST_OUTPUTS];
    double best = 1e9;
    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels)
        return 1;
    for (int i = 0; i < 4000; i++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        mnist_logits(pixels, logits);
        clock_gettime(CLOCK_MONOTONIC, &end);
        const double taken = 1e6 * (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e3;
        best = taken < best ? taken : best;
        pixels[i % 784] ^= 1;
    }
    printf("%f\n", best);
    return 0;
}
"""
NODE = r"""
import { readFileSync } from "node:fs";
const pixels = new Uint8Array(readFileSync("digit.raw"));
const start = performance.now();
const run = await make(pixels);
await run(pixels);
const ready = performance.now() - start;
let best = Infinity;
for (let i = 0; i < 2000; i++) {
  const before = performance.now();
  await run(pixels);
  best = Math.min(best, performance.now() - before);
  pixels[i % 784] ^= 1;
}
console.log(ready, best);
"""
OURS = 'const make = async () => (await import("./mnist.mjs")).logits;\n'
WEB = r"""
const make = async () => {
  const ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(readFileSync("mnist.onnx"));
  return (pixels) => session.run({ pixels: new ort.Tensor("uint8", pixels, [1, 784]) });
};
"""
ENGINE = Path(__file__).parents[1] / ".venv-engines/web/node_modules"
"""Folder where `make engines` installs onnxruntime-web."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLASH = '#define MNIST_NO_SELFTEST\n#include "mnist.h"\nint label(const uint8_t *);\n'
FLASH += "int label(const uint8_t *pixels) { return mnist_predict(pixels); }\n"
VALIDATION, TRAINING = load_split("valid"), load_split("train")
DIGITS = VALIDATION.images.reshape(-1, 784)
CALIBRATION = TRAINING.images[:CALIBRATION_DIGITS].reshape(-1, 784)


def train(module: nn.Module, steps: int, lr: float) -> nn.Module:
    pixels, labels = TRAINING.tensors()
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
    for _ in range(steps):
        batch = torch.randint(len(pixels), (128,))
        loss = F.cross_entropy(module(pixels[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def accuracy_lost(module: nn.Module, network: ExactNetwork) -> tuple[float, float]:
    """Return the accuracy of the exact network and what it lost, in percentage points."""
    with torch.no_grad():
        labels = torch.cat(
            [module(part / 256)[:, :10].argmax(dim=1) for part in torch.from_numpy(DIGITS).split(500)]
        ).numpy()
    float_, exact_ = (
        (100 * (answers == VALIDATION.labels).mean()) for answers in (labels, network.logits(DIGITS)[:, :10].argmax(1))
    )
    return exact_, float_ - exact_


def best_of(*runs: Callable[[], object], repeats: int = 3000) -> list[float]:
    """Return the least microseconds of each run, measured in turn."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], 1e6 * (time.perf_counter() - start))
    return best


def compiled(folder: Path, header: bytes, source: str, *command: str) -> Path:
    (folder / "mnist.h").write_bytes(header)
    (folder / "main.c").write_text(source)
    subprocess.run([*command, "main.c", "-o", "main"], cwd=folder, check=True)
    return folder / "main"


def microseconds(folder: Path, header: bytes) -> float:
    program = compiled(folder, header, TIMER, "cc", "-std=c99", "-O3", "-march=native")
    return float(subprocess.run([program], input=DIGITS[0].tobytes(), capture_output=True, check=True).stdout)


def flash(folder: Path, header: bytes) -> int:
    """Return the bytes of code and tables on a Cortex-M0 without the self-test."""
    arm = ["arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb", "-Os", "-ffreestanding", "-c"]
    sizes = subprocess.check_output(["arm-none-eabi-size", compiled(folder, header, FLASH, *arm)], text=True)
    return int(sizes.splitlines()[1].split()[0])


def whole_process(folder: Path, header: bytes) -> Claim:
    source = Path(__file__).parents[1] / "examples/c/main.c"
    program = compiled(folder, header, source.read_text(), "cc", "-std=c99", "-Os", "-static")
    np.save(folder / "digit.npy", DIGITS[0])
    (folder / "digit.raw").write_bytes(DIGITS[0].tobytes())
    infer = Path(sys.executable).with_name("mnist-infer")
    ours = min(measure("/bin/sh", "-c", f"exec {program} < {folder / 'digit.raw'}").wall for _ in range(15))
    theirs = min(measure(infer, folder / "digit.npy").wall for _ in range(5))
    print(f"examples/c/main.c, static and not stripped: {program.stat().st_size:,} bytes")
    return Claim(
        "C process, exec to label / mnist-infer", f"{1e3 * ours:.1f} ms", f"{1e3 * theirs:.0f} ms", ours / theirs, 0.02
    )


def in_node(folder: Path, make: str) -> list[float]:
    """Return the milliseconds in node from the import to the first logits, and the least of one digit."""
    (folder / "main.mjs").write_text(make + NODE)
    return [float(ms) for ms in subprocess.check_output(["node", "main.mjs"], cwd=folder, text=True).split()]


def interactive(page: Path) -> float:
    """Return the least milliseconds in Chromium from opening a file until its scripts have run, and the pen draws."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        return min(_opened(browser, page) for _ in range(15))


def _opened(browser: Browser, page: Path) -> float:
    with browser.new_context() as fresh:
        tab = fresh.new_page()
        tab.goto(page.as_uri())
        return float(tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))


def javascript(folder: Path, module: bytes, graph: bytes, c_us: float) -> Iterator[Claim]:
    """Compare mnist.mjs with C and, where `make engines` has installed it, with onnxruntime-web."""
    (folder / "mnist.mjs").write_bytes(module)
    (folder / "mnist.onnx").write_bytes(graph)
    (folder / "digit.raw").write_bytes(DIGITS[0].tobytes())
    ready, best = min(in_node(folder, OURS) for _ in range(5))
    texts = f"{1e3 * best:.0f} us", f"{c_us:.0f} us"
    yield Claim("JavaScript / C, one digit, convolutional", *texts, 1e3 * best / c_us, 20)
    yield Claim("JavaScript, one digit / 5 ms", f"{best:.2f} ms", "5 ms", best / 5, 1)
    page = offline(module)
    yield Claim("offline page / 100 KB", f"{len(page):,} B", "100,000 B", len(page) / 100_000, 1)
    if CHROMIUM:
        (folder / "mnist.html").write_bytes(page)
        open_ms = interactive(folder / "mnist.html")
        yield Claim("offline page, opened to interactive / 100 ms", f"{open_ms:.0f} ms", "100 ms", open_ms / 100, 1)
    if ENGINE.is_dir():
        (folder / "node_modules").symlink_to(ENGINE)
        web_ready, web_best = min(in_node(folder, WEB) for _ in range(5))
        texts = f"{ready:.0f} ms", f"{web_ready:.0f} ms"
        yield Claim("JavaScript / ort-web, import to logits", *texts, ready / web_ready, 1)
        yield Claim("JavaScript / ort-web, one digit", f"{best:.2f} ms", f"{web_best:.2f} ms", best / web_best, 10)


def compare(kind: str, trained: nn.Module, folder: Path) -> Iterator[Claim]:
    """Print a network in every language, measure each, and yield the claims."""
    network, golden = exact(trained, CALIBRATION), golden_digits(VALIDATION)
    header = to_header(network, golden, Thresholds(), checkpoint="0" * 64, logits_sha256="0" * 64)
    graphs = [to_graph(network), uint8_graph(with_outputs(trace(trained)[1]))]
    sessions = [SessionSettings().open(to_onnx(graph, {}), kind) for graph in graphs]
    runs = [lambda s=s: s.run(["logits"], {"pixels": DIGITS[:1]}) for s in sessions]  # type: ignore[misc]
    exact_us, float_us = best_of(*runs)
    c_us = microseconds(folder, header)
    accuracy, lost = accuracy_lost(trained, network)
    print(f"{kind}: {network.weights:,} weights and biases, {accuracy:.2f} % exact")
    if kind == "linear":
        yield whole_process(folder, header)
    else:
        if shutil.which("node"):
            module = to_module(network, golden, Thresholds(), checkpoint="0" * 64, logits_sha256="0" * 64)
            yield from javascript(folder, module, to_onnx(graphs[0], {}), c_us)
        texts = f"{exact_us:.1f} us", f"{float_us:.1f} us"
        yield Claim("exact ONNX / float uint8 ONNX, one digit", *texts, exact_us / float_us, 1.4)
        ram = int(re.search(rb"#define MNIST_BUFFER_SIZE (\d+)", header)[1])  # type: ignore[index]
        yield Claim("static RAM / 8 KiB, convolutional", f"{ram:,} B", "8,192 B", ram / 8192, 1)
    texts = f"{c_us:.1f} us", f"{exact_us:.1f} us"
    yield Claim(f"C / exact ONNX, one digit, {kind}", *texts, c_us / exact_us, 0.5 if kind == "linear" else 2)
    if shutil.which("arm-none-eabi-gcc"):
        used, room = flash(folder, header), network.weights + 2048
        yield Claim(f"Cortex-M0 flash / weights + 2 KiB, {kind}", f"{used:,} B", f"{room:,} B", used / room, 1)
    yield Claim(f"points of accuracy lost / 0.1, {kind}", f"{lost:.2f}", "0.10", lost / 0.1, 1)


def main() -> int:
    torch.manual_seed(0)
    models = {"linear": train(MNISTLogistic(), 600, 1e-3), "convolutional": train(CNN(), STEPS, 3e-3)}
    with tempfile.TemporaryDirectory() as name:
        claims = [claim for kind, trained in models.items() for claim in compare(kind, trained, Path(name))]
    return report(claims)


if __name__ == "__main__":
    sys.exit(main())
