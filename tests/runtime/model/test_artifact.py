"""One .onnx file: its seal, its contract, its golden digits."""

import onnx
import pytest

from mnist_runtime.errors import ArtifactError, FileMissingError, IntegrityError
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.seal import is_intact, seal, sealed_digest


@pytest.fixture(scope="module")
def model(bundled) -> bytes:
    return bundled.read_bytes()


def changed(model: bytes, change) -> bytes:
    """The model after `change(ModelProto)`, sealed anew if it still carries a seal."""
    proto = onnx.load_from_string(model)
    change(proto)
    for prop in proto.metadata_props:
        if prop.key == "mnist_edge.sha256":
            prop.value = "0" * 64
            return seal(proto.SerializeToString(deterministic=True))
    return proto.SerializeToString(deterministic=True)


def set_property(proto: onnx.ModelProto, key: str, value: str) -> None:
    next(prop for prop in proto.metadata_props if prop.key == f"mnist_edge.{key}").value = value


def test_the_bundled_model_is_sealed_and_replays_its_golden_digits(model):
    assert is_intact(model)
    artifact = Artifact.from_bytes(model, "bundled")
    replayed = artifact.replay()
    assert replayed.passed
    assert (replayed.count, replayed.agreeing, replayed.certified) == (23, 23, 23)
    assert artifact.training["metrics"]["valid_accuracy"] == pytest.approx(0.9167, abs=1e-6)


def test_one_flipped_bit_anywhere_breaks_the_seal(model):
    for position in range(0, len(model), 97):
        damaged = bytearray(model)
        damaged[position] ^= 1
        with pytest.raises(ArtifactError):
            Artifact.from_bytes(bytes(damaged), "damaged.onnx")


def test_a_flipped_bit_in_the_weights_is_an_integrity_error(model):
    damaged = bytearray(model)
    damaged[15_000] ^= 1
    with pytest.raises(IntegrityError, match=r"damaged.onnx has changed since it was exported"):
        Artifact.from_bytes(bytes(damaged), "damaged.onnx")


@pytest.mark.parametrize("kept", [1, 1000, 31_000, -1])
def test_a_model_cut_short_is_refused(model, kept):
    with pytest.raises(ArtifactError):
        Artifact.from_bytes(model[:kept], "cut.onnx")


def test_a_file_that_is_not_onnx_is_refused():
    with pytest.raises(ArtifactError, match=r"hello\.onnx is not a complete ONNX model"):
        Artifact.from_bytes(b"hello", "hello.onnx")


def test_an_onnx_model_without_our_metadata_is_refused(model):
    foreign = changed(model, lambda proto: proto.ClearField("metadata_props"))
    assert sealed_digest(foreign) is None
    with pytest.raises(ArtifactError, match="without the seal and metadata of mnist-export"):
        Artifact.from_bytes(foreign, "foreign.onnx")


def test_metadata_that_are_not_text_are_refused(model):
    unsealed = model.replace(b"mnist_edge.sha256", b"mnist_edge.sha\xff\xff\xff")
    with pytest.raises(ArtifactError, match=r"odd\.onnx contains names or metadata that are not text"):
        Artifact.from_bytes(unsealed, "odd.onnx", trusted_contract="float32")


def test_another_metadata_schema_is_refused(model):
    newer = changed(model, lambda proto: set_property(proto, "schema", "99"))
    with pytest.raises(ArtifactError, match="schema 99"):
        Artifact.from_bytes(newer, "newer.onnx")


def rename_output(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].output[0] = proto.graph.output[1].name = "scores"


def bake_in_the_batch(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize("change", [rename_output, bake_in_the_batch])
def test_another_interface_is_refused(model, change):
    with pytest.raises(ArtifactError, match="the contract is"):
        Artifact.from_bytes(changed(model, change), "other.onnx")


@pytest.mark.parametrize("text", ["", "not base64!", "aGVsbG8="])
def test_unreadable_golden_digits_are_an_artifact_error(model, text):
    artifact = Artifact.from_bytes(changed(model, lambda proto: set_property(proto, "golden", text)), "odd.onnx")
    with pytest.raises(ArtifactError, match="no readable golden digits"):
        artifact.replay()


def test_other_weights_under_a_fresh_seal_fail_the_golden_digits(model):
    def change(proto):
        weight = proto.graph.initializer[0]
        values = onnx.numpy_helper.to_array(weight) * 1.001
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), weight.name))

    replayed = Artifact.from_bytes(changed(model, change), "other.onnx").replay()
    assert not replayed.passed
    assert replayed.worst_share > 1


def test_a_missing_model_is_a_file_not_found(tmp_path):
    with pytest.raises(FileMissingError, match="mnist-export"):
        Artifact.load(tmp_path / "absent.onnx")
