"""What proof costs: mnist-export against a bare torch.onnx.export, and mnist-parity against a bare onnxruntime session.

Each pair runs side by side as processes, in turn; ratios are of the medians. Exits 1 when a ratio is over its ceiling.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
REPEATS = 5

BARE_EXPORT = """
import sys, torch
module = torch.nn.Linear(784, 10).eval()
batch = torch.export.Dim("batch")
torch.onnx.export(module, (torch.zeros(2, 784),), sys.argv[1], dynamo=True, external_data=False,
                  dynamic_shapes=({0: batch},), verbose=False)
"""
BARE_SESSION = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(["logits"], {"pixels": numpy.zeros((1, 784), dtype=numpy.float32)})
"""

EXPORT_CEILING = 1.3
PARITY_CEILING = 1.5


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def ratio(what: str, ours: list[str], theirs: list[str], ceiling: float) -> bool:
    for command in (ours, theirs):
        seconds(command)  # bytecode and file caches are warm for both
    times = [(seconds(ours), seconds(theirs)) for _ in range(REPEATS)]
    mine, bare = (statistics.median(column) for column in zip(*times, strict=True))
    held = mine / bare <= ceiling
    verdict = "ok" if held else "MISSED"
    print(f"{what:<52}{mine:6.2f} s /{bare:5.2f} s = {mine / bare:4.2f} x  (at most {ceiling} x: {verdict})")
    return held


def main() -> int:
    model = Path(__file__).parents[1] / "runtime/mnist_runtime/bundled/mnist-linear.onnx"
    with tempfile.TemporaryDirectory() as folder:
        seconds([str(BIN / "mnist-train"), "--device", "cpu", "--output-dir", folder])
        python, checkpoint = sys.executable, f"{folder}/mnist.safetensors"
        held = [
            ratio(
                "mnist-export, three formats / torch.onnx.export",
                [str(BIN / "mnist-export"), checkpoint, "--output-dir", f"{folder}/out"],
                [python, "-c", BARE_EXPORT, f"{folder}/bare.onnx"],
                EXPORT_CEILING,
            ),
            ratio(
                "mnist-parity / load in onnxruntime and run one digit",
                [str(BIN / "mnist-parity"), str(model)],
                [python, "-c", BARE_SESSION, str(model)],
                PARITY_CEILING,
            ),
        ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
