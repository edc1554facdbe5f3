"""Outputs of every ONNX artifact: logits, probabilities and, from eleven logits, the probability of no digit."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mnist_runtime.model.artifact import ALL_LOGITS
from mnist_runtime.model.comparison import TEN


def with_outputs(model: ModelProto) -> ModelProto:
    """Return the graph with the outputs of the artifact contract, in operators that opsets 13 to 18 share.

    Args:
        model: Graph whose only output is `logits` `[batch, 10]`; or `[batch, 11]`, with a logit for what is no digit,
            which then gets the name `ALL_LOGITS`.
    """
    answering = ModelProto()
    answering.CopyFrom(model)
    graph = answering.graph
    outputs: list[tuple[str, list[str | int | None]]] = [
        ("logits", ["batch", TEN]),
        ("probabilities", ["batch", TEN]),
    ]
    if graph.output[0].type.tensor_type.shape.dim[1].dim_value > TEN:
        for node in graph.node:
            node.input[:] = [ALL_LOGITS if name == "logits" else name for name in node.input]
            node.output[:] = [ALL_LOGITS if name == "logits" else name for name in node.output]
        places = {"first_class": [0], "end_class": [TEN], "axis_class": [1], "eleventh_class": TEN}
        graph.initializer.extend(numpy_helper.from_array(np.array(place), name) for name, place in places.items())
        graph.node.extend(
            [
                helper.make_node("Slice", [ALL_LOGITS, "first_class", "end_class", "axis_class"], ["logits"], "slice"),
                helper.make_node("Softmax", [ALL_LOGITS], ["all_probabilities"], "all_softmax", axis=-1),
                helper.make_node("Gather", ["all_probabilities", "eleventh_class"], ["no_digit"], "gather", axis=1),
            ]
        )
        outputs.append(("no_digit", ["batch"]))
    graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=-1))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs)
    return answering
