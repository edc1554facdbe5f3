"""Gate, then publish: what passes is written whole, what does not is not written at all."""

import copy
import dataclasses
import hashlib
import json

import pytest
import torch
from torch import nn

from mnist_export import export
from mnist_export.bundle import Bundle
from mnist_export.formats import DEFAULT, FORMATS
from mnist_export.gate import ParityError
from mnist_export.golden import VALIDATION, Proof, expect, single_pixels
from mnist_export.onnx import trace
from mnist_train import checkpoint


@pytest.fixture(scope="module")
def bundle(trained, validation) -> Bundle:
    return Bundle(checkpoint.load(trained / "mnist.safetensors"), validation)


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


@pytest.fixture(scope="module", params=[1.001, 0.999])
def damaged(request, bundle, validation) -> Bundle:
    """A bundle of the module with one weight changed by a thousandth, held against the module without."""
    module = copy.deepcopy(bundle.checkpoint.module)
    with torch.no_grad():
        module.lin.weight[3, 10 * 28 + 12] *= request.param
    damaged = Bundle(dataclasses.replace(bundle.checkpoint, module=module), validation)
    damaged.expected = bundle.expected
    return damaged


@pytest.mark.parametrize("form", DEFAULT)
def test_a_thousandth_of_one_weight_is_noticed(damaged, form):
    with pytest.raises(ParityError, match="nothing was published"):
        damaged.build(FORMATS[form])


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


def test_publishing_only_one_format_lists_only_that(bundle, tmp_path):
    export(bundle.checkpoint, ["torchscript"], tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").glob("m*")} == {"mnist.torchscript.pt", "manifest.json"}
    assert list(json.loads((tmp_path / "new" / "manifest.json").read_text())["files"]) == ["mnist.torchscript.pt"]
