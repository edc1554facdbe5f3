"""The gate catches damaged artifacts, except for changes that are smaller than rounding."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

from mnist_export.bundle import Bundle
from mnist_export.errors import ExportError
from mnist_export.formats import FORMATS
from mnist_export.gate import Compute, judge
from mnist_export.golden import SINGLE, Expected
from mnist_export.pt2 import to_pt2
from mnist_export.torchscript import to_torchscript
from mnist_runtime.model.artifact import PREFIX
from mnist_runtime.model.seal import seal
from mnist_train.checkpoint import Checkpoint
from mnist_train.data.bundled import Split


def _graph(everything: Path, name: str = "mnist.onnx") -> ModelProto:
    return onnx.load(everything / name)


def _sealed(model: ModelProto) -> bytes:
    """Return the model as a faulty exporter would write it: with a valid seal and a wrong computation."""
    for entry in model.metadata_props:
        if entry.key == f"{PREFIX}sha256":
            entry.value = "0" * 64
    return seal(model.SerializeToString(deterministic=True))


def _initializer(model: ModelProto, dims: int):
    return next(tensor for tensor in model.graph.initializer if len(tensor.dims) == dims)


def _edit_weight(model: ModelProto, edit: Callable[[np.ndarray], np.ndarray]) -> ModelProto:
    tensor = _initializer(model, 2)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(edit(numpy_helper.to_array(tensor))), tensor.name))
    return model


def _complaint(data: bytes, expected: Expected) -> str | None:
    """Return the gate's failures for an ONNX artifact; None if it passes."""
    try:
        failure = judge(_run(data), expected).failure
    except ExportError as error:
        return str(error)
    return failure and "; ".join(failure.failures)


def _run(data: bytes) -> Compute:
    return FORMATS["onnx"].load(data)


def _scale_one(weight: np.ndarray, place: tuple[int, int], by: float = 1.001) -> np.ndarray:
    weight = weight.copy()
    weight[place] *= np.float32(by)
    return weight


def _transpose_pictures(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(10, 28, 28).transpose(0, 2, 1).reshape(10, 784)


def _swap_classes(weight: np.ndarray) -> np.ndarray:
    return weight[[0, 1, 2, 5, 4, 3, 6, 7, 8, 9]]


WEIGHT_DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one weight changed by 0.1 %": lambda weight: _scale_one(weight, (3, 14 * 28 + 14)),
    "one weight changed by -0.1 %": lambda weight: _scale_one(weight, (3, 10 * 28 + 12), 0.999),
    "transposed weight": _transpose_pictures,
    "swapped class": _swap_classes,
    "NaN weight": lambda weight: _scale_one(weight, (7, 0), np.nan),
    "infinite weight": lambda weight: _scale_one(weight, (7, 400), np.inf),
    "scale 1/255": lambda weight: weight * np.float32(256 / 255),
    "float16 weights": lambda weight: weight.astype(np.float16).astype(np.float32),
    "bfloat16 weights": lambda weight: (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
}


@pytest.mark.parametrize("name", WEIGHT_DAMAGES)
@pytest.mark.parametrize("file", ["mnist.onnx", "mnist.uint8.onnx"])
def test_damaged_weights_in_a_graph_are_caught(everything: Path, expected: Expected, file: str, name: str):
    damaged = _sealed(_edit_weight(_graph(everything, file), WEIGHT_DAMAGES[name]))
    assert _complaint(damaged, expected)


@pytest.mark.parametrize("name", WEIGHT_DAMAGES)
@pytest.mark.parametrize("form", ["torchscript", "pt2"])
def test_damaged_weights_in_a_program_are_caught(checkpoint: Checkpoint, expected: Expected, form: str, name: str):
    module = copy.deepcopy(checkpoint.module)
    weight = module.lin.weight.detach().numpy()
    module.lin.weight = nn.Parameter(torch.from_numpy(WEIGHT_DAMAGES[name](weight).astype(np.float32)))
    data = {"torchscript": to_torchscript, "pt2": to_pt2}[form](module)
    assert judge(FORMATS[form].load(data), expected).failure


def test_any_one_weight_changed_by_a_thousandth_is_caught_or_provably_rounding(
    everything: Path, checkpoint: Checkpoint, expected: Expected
):
    weight = checkpoint.module.lin.weight.detach().numpy()
    draw = np.random.default_rng(4)
    missed = []
    for place in zip(draw.integers(0, 10, 200).tolist(), draw.integers(0, 784, 200).tolist(), strict=True):
        damaged = _sealed(_edit_weight(_graph(everything), lambda values, place=place: _scale_one(values, place)))
        single = expected.sets[SINGLE]
        run = _run(damaged)
        error = np.abs(run(single.digits)[0] - single.logits)
        if (error <= single.tolerance).all():
            missed.append(place)
    within_rounding = [
        (label, pixel)
        for label, pixel in missed
        if abs(weight[label, pixel]) * 0.001 * 255 / 256 <= 2 * expected.sets[SINGLE].tolerance[pixel, label]
    ]
    assert missed == within_rounding
    assert len(missed) <= 2


def test_a_dropped_bias_is_caught(everything: Path, expected: Expected):
    model = _graph(everything)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    del gemm.input[2]
    assert "off by" in _complaint(_sealed(model), expected)


def test_a_baked_in_batch_is_caught(everything: Path, expected: Expected):
    declared = _graph(everything)
    for value in (*declared.graph.input, *declared.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    assert "the contract is pixels" in _complaint(_sealed(declared), expected)


def test_a_baked_in_batch_that_is_not_declared_is_caught(everything: Path, expected: Expected):
    model = _graph(everything)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 784]), "one"))
    reshape = onnx.helper.make_node("Reshape", ["pixels", "one"], ["reshaped"])
    gemm.input[0] = "reshaped"
    model.graph.node.insert(0, reshape)
    assert _complaint(_sealed(model), expected)


def test_a_baked_in_batch_of_a_program_is_caught(checkpoint: Checkpoint, expected: Expected):
    saved = io.BytesIO()
    torch.export.save(torch.export.export(checkpoint.module, (torch.zeros(1, 784),)), saved)
    assert "cannot be run" in judge(FORMATS["pt2"].load(saved.getvalue()), expected).failure.failures[0]


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_missing_or_renamed_output_is_caught(everything: Path, expected: Expected, output: str):
    missing = _graph(everything)
    missing.graph.output.remove(next(value for value in missing.graph.output if value.name == output))
    assert "the contract is pixels" in _complaint(_sealed(missing), expected)
    renamed = _graph(everything)
    for node in renamed.graph.node:
        node.output[:] = ["out" if name == output else name for name in node.output]
        node.input[:] = ["out" if name == output else name for name in node.input]
    next(value for value in renamed.graph.output if value.name == output).name = "out"
    assert "the contract is pixels" in _complaint(_sealed(renamed), expected)


def test_outputs_that_changed_places_are_caught(everything: Path, expected: Expected):
    model = _graph(everything)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.output[0], softmax.input[0], softmax.output[0] = "probabilities", "probabilities", "logits"
    assert "off by" in _complaint(_sealed(model), expected)


def test_probabilities_along_the_wrong_axis_are_caught(everything: Path, expected: Expected):
    model = _graph(everything)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 0
    assert "probabilit" in _complaint(_sealed(model), expected)


def test_weights_in_another_file_are_refused(everything: Path, expected: Expected, tmp_path: Path, monkeypatch):
    """onnxruntime would run whatever the other file holds."""
    model = _graph(everything)
    onnx.save(_edit_weight(_graph(everything), _swap_classes), tmp_path / "other.onnx", save_as_external_data=True,
              location="weights", size_threshold=0, convert_attribute=False)  # fmt: skip
    onnx.save(model, tmp_path / "mnist.onnx", save_as_external_data=True, location="weights2", size_threshold=0)
    (tmp_path / "weights2").write_bytes((tmp_path / "weights").read_bytes())
    monkeypatch.chdir(tmp_path)
    external = onnx.load(tmp_path / "mnist.onnx", load_external_data=False)
    assert _complaint(_sealed(external), expected)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_truncated_artifact_is_caught(everything: Path, expected: Expected, name: str):
    form = FORMATS[name]
    data = (everything / form.file).read_bytes()
    for length in (1, len(data) // 2, len(data) - 2):  # the last byte of a header is a line break
        with pytest.raises(ExportError, match="cannot be loaded again"):
            form.load(data[:length])


def test_a_hidden_layer_that_is_damaged_is_caught(networks, validation: Split):
    torch.manual_seed(1)
    module = networks.Perceptron().eval()
    bundle = Bundle(Checkpoint(module, {}, "0" * 64, 1), validation)
    data = bundle.build(FORMATS["onnx"]).data
    for name, damage in {
        "transposed": lambda weight: weight.reshape(-1, 28, 28).transpose(0, 2, 1).reshape(-1, 784),
        "dropped unit": lambda weight: weight * (np.arange(len(weight)) != 10)[:, None].astype(np.float32),
        "float16": lambda weight: weight.astype(np.float16).astype(np.float32),
        "NaN": lambda weight: _scale_one(weight, (0, 300), np.nan),
    }.items():
        damaged = _sealed(_edit_weight(onnx.load_from_string(data), damage))
        assert judge(_run(damaged), bundle.expected).failure, name
