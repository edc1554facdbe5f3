"""The exact graph: old float32 operators, small weights, and equal bits at every setting."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from mnist_export.exact.onnx import to_graph
from mnist_export.golden import single_pixels
from mnist_export.onnx import to_onnx

LEVELS = [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_are_equal_at_every_level_and_number_of_threads(network, golden, level, threads):
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = level, threads
    model = to_onnx(to_graph(network), {})
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    digits = np.concatenate([golden, single_pixels()])
    wanted = (network.logits(digits) * 2.0**network.exponent).astype(np.float32)
    for size in (1, 64, len(digits)):
        logits = session.run(["logits"], {"pixels": digits[:size]})[0]
        assert logits.tobytes() == wanted[:size].tobytes()


def test_the_graph_is_of_opset_13_with_weights_of_one_byte(network):
    model = to_graph(network)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Cast", "Reshape", "Conv", "Mul", "Floor", "Clip", "MaxPool", "Flatten", "Gemm", "Softmax"}
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".weight")]
    assert {weight.dtype for weight in weights} == {np.dtype(np.int8)}
    assert len(weights) == len(network.layers)
    onnx.checker.check_model(model, full_check=True)
