"""Bundles: artifacts that pass the gate are published together; if one fails, none is."""

import hashlib
import json

from torch import nn

from mnist_export.golden import VALIDATION, Proof, expect, single_pixels
from mnist_export.onnx import trace


def test_the_manifest_ties_the_files_together(exported, trained):
    manifest = json.loads((exported / "manifest.json").read_text())
    source = (trained / "mnist.safetensors").read_bytes()
    assert manifest["checkpoint"] == {"sha256": hashlib.sha256(source).hexdigest(), "size": len(source)}
    assert set(manifest["files"]) == {path.name for path in exported.glob("mnist.*")}
    for name, entry in manifest["files"].items():
        data = (exported / name).read_bytes()
        assert (entry["sha256"], entry["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert [part["count"] for part in entry["parity"]] == [23, 784, 10_000]
        assert all(part["worst_share"] < 1 and part["failures"] == [] for part in entry["parity"])


def test_all_labels_of_this_model_are_certified(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    for entry in manifest["files"].values():
        assert [part["certified"] for part in entry["parity"]] == [23, 784, 10_000]


def test_an_operator_without_a_rule_is_named_and_the_tolerance_is_derived(validation):
    module = nn.Sequential(nn.Linear(784, 32), nn.Softplus(), nn.Linear(32, 10)).eval()
    expected = expect(module, validation, lambda: trace(module)[0])
    assert expected.proof == Proof("derived", "module", "Softplus")
    derived = expected.sets[VALIDATION]
    assert not derived.certified.any()
    assert 0 < derived.tolerance.max() < 1e-4
    assert len(set(derived.tolerance.ravel().tolist())) == 1


def test_every_single_pixel_digit_has_one_lit_pixel():
    assert (single_pixels() > 0).sum(axis=1).tolist() == [1] * 784
