"""Checkpoints: they are restored exactly, damage is refused, and no code in them can run."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save as to_safetensors

from mnist_train import checkpoint
from mnist_train.errors import CheckpointError
from mnist_train.models import MNISTLogistic

RECORD = {"model": "linear", "hyperparameters": {"lr": 0.5}}


def test_weights_and_record_are_restored_exactly(tmp_path):
    model = MNISTLogistic()
    digest = checkpoint.save(tmp_path / "model.safetensors", model, RECORD)
    loaded = checkpoint.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.module.lin.weight, model.lin.weight)
    assert not loaded.module.training
    assert (loaded.record, loaded.sha256) == (RECORD, digest)
    assert loaded.size == (tmp_path / "model.safetensors").stat().st_size


def test_equal_runs_write_equal_bytes(tmp_path):
    model = MNISTLogistic()
    swapped = dict(reversed(RECORD.items()))
    assert checkpoint.save(tmp_path / "a", model, RECORD) == checkpoint.save(tmp_path / "b", model, swapped)


@pytest.mark.parametrize("kept", [1, 7, 8, 100, 400, 31_000, -1])
def test_a_truncated_checkpoint_is_refused_and_named(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, MNISTLogistic(), RECORD)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        checkpoint.load(path)


def test_a_pickled_checkpoint_is_refused_and_never_run(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(MNISTLogistic().state_dict(), path)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(RECORD))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        *({"mnist_edge": text} for text in ("{}", '{"model": "transformer"}', "not json", "[" * 100_000)),
        *({"mnist_edge": text} for text in ("[]", "7", '"linear"', "null", '{"model": 7}', '{"model": ["linear"]}')),
    ],
)
def test_a_checkpoint_without_our_record_is_refused(tmp_path, metadata):
    (tmp_path / "model").write_bytes(to_safetensors(MNISTLogistic().state_dict(), metadata))
    with pytest.raises(CheckpointError, match=r"how it was trained|cannot be built"):
        checkpoint.load(tmp_path / "model")


def test_weights_of_another_shape_are_refused(tmp_path):
    weights = {"lin.weight": torch.zeros(10, 100), "lin.bias": torch.zeros(10)}
    (tmp_path / "model").write_bytes(to_safetensors(weights, {"mnist_edge": json.dumps(RECORD)}))
    with pytest.raises(CheckpointError, match=r"does not fit its model.*size mismatch"):
        checkpoint.load(tmp_path / "model")
