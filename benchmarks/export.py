"""The cost of proof: mnist-export against a bare torch.onnx.export, mnist-parity against a bare onnxruntime session.

The processes of each pair run in turn; ratios are those of the medians. Exits with 1 if a ratio or the memory is above
its ceiling.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _claim import Claim, report
from _process import Usage, measure

BIN = Path(sys.executable).parent
REPEATS = 5

NETWORK = """
from torch import nn

class Convolutional(nn.Sequential):
    \"\"\"A convolutional network of 19,594 weights.\"\"\"

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 10),
        )
"""
SAVE = """
import torch, own_network
torch.manual_seed(0)
torch.save(own_network.Convolutional().state_dict(), "own.pt")
"""
BARE_CONVOLUTIONAL = """
import sys, torch, own_network
module = own_network.Convolutional()
module.load_state_dict(torch.load("own.pt", weights_only=True))
batch = torch.export.Dim("batch")
torch.onnx.export(module.eval(), (torch.zeros(2, 1, 28, 28),), sys.argv[1], dynamo=True, external_data=False,
                  dynamic_shapes=({0: batch},), verbose=False)
"""

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
CONVOLUTIONAL_CEILING = 2.5
MEMORY_CEILING = 2**30
PARITY_CEILING = 1.5


def compare(what: str, ours: list[str], theirs: list[str], ceiling: float) -> list[Claim]:
    for command in (ours, theirs):
        measure(*command)  # so that bytecode and file caches are warm for both
    pairs = [(measure(*ours), measure(*theirs)) for _ in range(REPEATS)]
    mine, bare = (statistics.median(usage.wall for usage in column) for column in zip(*pairs, strict=True))
    return [Claim(what, f"{mine:.2f} s", f"{bare:.2f} s", mine / bare, ceiling), fits([usage for usage, _ in pairs])]


def fits(usages: list[Usage]) -> Claim:
    peak = max(usage.peak for usage in usages)
    limit = f"{MEMORY_CEILING / 2**20:.0f} MiB"
    return Claim("  its memory / 1 GiB", f"{peak / 2**20:.0f} MiB", limit, peak / MEMORY_CEILING, 1)


def main() -> int:
    model = Path(__file__).parents[1] / "runtime/mnist_runtime/bundled/mnist-linear.onnx"
    with tempfile.TemporaryDirectory() as folder:
        measure(BIN / "mnist-train", "--device", "cpu", "--output-dir", folder)
        os.chdir(folder)
        Path("own_network.py").write_text(NETWORK)
        subprocess.run([sys.executable, "-c", SAVE], check=True)
        python, checkpoint = sys.executable, f"{folder}/mnist.safetensors"
        claims = [
            *compare(
                "mnist-export / torch.onnx.export",
                [str(BIN / "mnist-export"), checkpoint, "--output-dir", f"{folder}/out"],
                [python, "-c", BARE_EXPORT, f"{folder}/bare.onnx"],
                EXPORT_CEILING,
            ),
            *compare(
                "mnist-export, convolutional / torch's",
                [str(BIN / "mnist-export"), "own.pt", "--model", "own_network:Convolutional"],
                [python, "-c", BARE_CONVOLUTIONAL, "bare.onnx"],
                CONVOLUTIONAL_CEILING,
            ),
            *compare(
                "mnist-parity / onnxruntime and one digit",
                [str(BIN / "mnist-parity"), str(model)],
                [python, "-c", BARE_SESSION, str(model)],
                PARITY_CEILING,
            ),
        ]
    return report(claims)


if __name__ == "__main__":
    sys.exit(main())
