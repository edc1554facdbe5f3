"""The seal among a model's top-level fields, and hazardous models that reach no loader."""

import onnx
import pytest
from onnx import TensorProto, helper

from mnist_runtime.errors import ArtifactError
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.seal import KEY, UNSEALED, is_hazardous, is_intact, seal, sealed_digest


@pytest.fixture(scope="module")
def model(bundled) -> onnx.ModelProto:
    return onnx.load(bundled)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def unsealed(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = copied(model)
    next(entry for entry in copy.metadata_props if entry.key == KEY).value = UNSEALED
    return copy


def test_a_seal_is_found_among_the_fields_and_nowhere_else(model):
    fresh = unsealed(model)
    fresh.doc_string = KEY + "\x12\x40" + "f" * 64  # the bytes of a seal where none is
    data = seal(fresh.SerializeToString(deterministic=True))
    assert is_intact(data)
    assert sealed_digest(data) != "f" * 64


def test_a_model_with_two_seals_counts_as_unsealed(model):
    twice = unsealed(model)
    twice.metadata_props.add(key=KEY, value=UNSEALED)
    data = twice.SerializeToString(deterministic=True)
    assert sealed_digest(data) is None
    with pytest.raises(ValueError, match="has no property"):
        seal(data)


@pytest.mark.parametrize(
    "data", [b"\x3a", b"\x3a\x05abc", b"\xff" * 11, b"\x0b", b"\x09abc", b"\x0d", b"\x08\x01" * 10_001]
)
def test_bytes_that_are_not_a_protobuf_are_refused(data):
    with pytest.raises(ValueError, match=r"cut short|wire type|more than 10,000 fields"):
        sealed_digest(data)
    with pytest.raises(ArtifactError, match="is not a complete ONNX model"):
        Artifact.from_bytes(data, "odd.onnx")


def explosive(depth: int) -> onnx.ModelProto:
    """A model of functions that call each other twice: 2 to the power of `depth` nodes once inlined."""
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("d", 1)]
    functions = []
    for level in range(depth):
        inner = ("Relu", "") if level == depth - 1 else (f"f{level + 1}", "d")
        nodes = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in (("x", "t"), ("t", "y"))]
        functions.append(helper.make_function("d", f"f{level}", ["x"], ["y"], nodes, opsets))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 784]) for name in ("pixels", "logits")]
    graph = helper.make_graph([helper.make_node("f0", ["pixels"], ["logits"], domain="d")], "g", values[:1], values[1:])
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)


def test_functions_and_training_info_never_reach_the_loader(model):
    assert not is_hazardous(model.SerializeToString())
    trains = copied(model)
    trains.training_info.add()
    for hazard in (explosive(40), trains):
        data = hazard.SerializeToString()
        assert is_hazardous(data)
        with pytest.raises(ArtifactError, match="local functions or training info"):
            Artifact.from_bytes(data, "hazard.onnx", trusted_contract="float32")
