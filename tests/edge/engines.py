"""Run the exact network and the float linear model in one engine, and print their differences from the references.

Run by `make engines` in the engine's own environment: `python engines.py ENGINE FOLDER`, where FOLDER holds the models
and digits that `python engines.py prepare FOLDER` wrote.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

DIGITS = 1000
MODELS = {"exact": "uint8", "linear": "float32"}
"""Dtype of the pixels by the name of the model."""

Logits = Callable[[np.ndarray], np.ndarray]


def prepare(folder: Path) -> None:
    """Write the bundled models, the digits (golden ones first) and the logits that this onnxruntime computes."""
    from mnist_export.golden import golden_digits
    from mnist_runtime.bundled import BUNDLED
    from mnist_runtime.model.artifact import Artifact
    from mnist_train.data.bundled import load_split

    digits = np.concatenate([golden_digits(load_split("valid")), load_split("test").images[:DIGITS].reshape(-1, 784)])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "digits.npy", digits)
    (folder / "digits.bin").write_bytes(digits.tobytes())
    for name, bundled in {"exact": BUNDLED["cnn"][0], "linear": BUNDLED["linear"][0]}.items():
        (folder / f"{name}.onnx").write_bytes(bundled.read_bytes())
        np.save(folder / f"{name}.npy", Artifact.load(bundled).run(digits, "logits")[0].astype(np.float64))
    for name, dtype in MODELS.items():
        _convert_for_ncnn(folder, name, {"uint8": "u8", "float32": "f32"}[dtype])


def _convert_for_ncnn(folder: Path, name: str, dtype: str) -> None:
    """Convert a model with pnnx; ncnn's input is float32 already, and it has no cast."""
    pnnx = Path(sys.executable).with_name("pnnx")
    subprocess.run(
        [pnnx, f"{name}.onnx", f"inputshape=[1,784]{dtype}", "fp16=0"], cwd=folder, check=True, capture_output=True
    )
    graph = folder / f"{name}.ncnn.param"
    graph.write_text(graph.read_text().replace("Tensor.to ", "Split "))


def onnxruntime(model: Path) -> Logits:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixels": pixels})[0]


def tract(model: Path) -> Logits:
    import tract

    def run(pixels: np.ndarray) -> np.ndarray:
        graph = tract.onnx().load(str(model))
        graph.set_input_fact(0, f"{len(pixels)},784,{'u8' if pixels.dtype == np.uint8 else 'f32'}")
        return graph.into_model().into_runnable().run([pixels])[0].to_numpy()

    return run


def web(model: Path) -> Logits:
    """Return what onnxruntime-web wrote in node."""
    logits = np.fromfile(model.with_suffix(".web.bin"), "<f4").reshape(-1, 10)
    return lambda pixels: logits


def opencv(model: Path) -> Logits:
    import cv2

    net = cv2.dnn.readNetFromONNX(str(model))

    def run(pixels: np.ndarray) -> np.ndarray:
        net.setInput(pixels, "pixels")
        return net.forward("logits")

    return run


def ncnn(model: Path, *, winograd: bool = False) -> Logits:
    """Run in float32 alone, and with direct convolutions unless `winograd`, which is ncnn's default."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = net.opt.use_bf16_storage = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_winograd_convolution = winograd
    assert net.load_param(str(model.with_suffix(".ncnn.param"))) == 0
    assert net.load_model(str(model.with_suffix(".ncnn.bin"))) == 0

    def logits(digit: np.ndarray) -> np.ndarray:
        extractor, pixels = net.create_extractor(), ncnn.Mat(digit)  # a view: `digit` must outlive it
        extractor.input("in0", pixels)
        return np.array(extractor.extract("out0")[1])

    return lambda pixels: np.stack([logits(digit) for digit in pixels.astype(np.float32)])


def ncnn_winograd(model: Path) -> Logits:
    return ncnn(model, winograd=True)


def main(engine: str, folder: Path) -> None:
    digits = np.load(folder / "digits.npy")
    for name, dtype in MODELS.items():
        pixels = digits if dtype == "uint8" else digits.astype(np.float32) / np.float32(256)
        reference = np.load(folder / f"{name}.npy")
        try:
            logits = globals()[engine](folder / f"{name}.onnx")(pixels)
        except Exception as error:  # noqa: BLE001  # each engine raises its own
            print(f"{engine:14}{name:8} does not run: {(str(error).splitlines() or [type(error).__name__])[0]}")
            continue
        worst = np.abs(logits.astype(np.float64) - reference).max()
        print(f"{engine:14}{name:8} {'equal' if worst == 0 else f'worst difference {worst:.1e}'}")


if __name__ == "__main__":
    prepare(Path(sys.argv[2])) if sys.argv[1] == "prepare" else main(sys.argv[1], Path(sys.argv[2]))
