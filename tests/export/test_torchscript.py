"""TorchScript artifacts: canonical, aligned, and loaded as usual."""

import zipfile

import pytest
import torch

from mnist_export.torchscript import from_torchscript
from mnist_train import checkpoint


@pytest.fixture(scope="module")
def archive(exported) -> zipfile.ZipFile:
    return zipfile.ZipFile(exported / "mnist.torchscript.pt")


def test_the_script_computes_the_logits_of_the_module_exactly(exported, trained, test_split):
    script = from_torchscript((exported / "mnist.torchscript.pt").read_bytes())
    module = checkpoint.load(trained / "mnist.safetensors").module
    pixels, _ = test_split.tensors()
    with torch.no_grad():
        assert torch.equal(script(pixels), module(pixels))


def test_the_archive_holds_nothing_that_varies(archive):
    names = archive.namelist()
    assert names == sorted(names)
    assert not any("debug_pkl" in name or "serialization_id" in name for name in names)
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {name.split("/")[0] for name in names} == {"mnist"}


def test_every_record_begins_at_a_multiple_of_64(archive):
    for entry in archive.infolist():
        with archive.open(entry) as record:
            record.read(1)
            assert (entry.header_offset + 30 + len(entry.filename) + len(entry.extra)) % 64 == 0


def test_the_constants_of_a_class_are_in_order(archive):
    code = archive.read("mnist/code/__torch__/torch/nn/modules/linear.py").decode()
    constants = [line for line in code.splitlines() if "Final[" in line]
    assert len(constants) == 2
    assert constants == sorted(constants)
