"""A user's network: trained in plain PyTorch, saved by torch.save, exported, proved and run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from mnist_export import export
from mnist_export.errors import ExportError
from mnist_export.weights import load_weights
from mnist_runtime import Classifier
from mnist_runtime.errors import FileReadError, OptionError
from mnist_runtime.model.artifact import Artifact
from mnist_train.errors import CheckpointError

NETWORK = """
import torch
import torch.nn as nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(8 * 12 * 12, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)
"""
"""The network of PyTorch's example for MNIST, with fewer channels."""
MEAN, STD = 0.1307, 0.3081

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's network in it, importable."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_network.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    del sys.modules["own_network"]


@pytest.fixture(scope="module")
def net(folder: Path) -> nn.Module:
    """The network, trained for 300 steps as people train it."""
    from own_network import Net

    from mnist_train.data.bundled import load_split

    torch.manual_seed(0)
    net, split = Net(), load_split("train")
    images = (torch.from_numpy(split.images[:19_200]).reshape(-1, 1, 28, 28).float() / 255 - MEAN) / STD
    labels = torch.from_numpy(split.labels[:19_200].astype(np.int64))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for start in range(0, len(images), 64):
        optimizer.zero_grad()
        F.nll_loss(net(images[start : start + 64]), labels[start : start + 64]).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def saved(net: nn.Module, folder: Path) -> Path:
    torch.save(net.state_dict(), folder / "mnist_cnn.pt")
    return folder / "mnist_cnn.pt"


@pytest.fixture(scope="module")
def published(saved: Path, run, folder: Path) -> Path:
    """The folder of an export by the command."""
    formats = [word for name in ("onnx", "onnx-uint8", "onnx-exact") for word in ("--format", name)]
    own = ["--model", "own_network:Net", "--mean", MEAN, "--std", STD, "--max-accuracy-drop", 1]
    result = run("mnist-export", saved.name, *own, *formats, "--output-dir", "out", cwd=folder, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder / "out"


def test_an_own_network_is_published_with_a_proof_and_certified_labels(published: Path):
    files = json.loads((published / "manifest.json").read_text())["files"]
    assert [files[f"mnist{kind}.onnx"]["bound"] for kind in ("", ".uint8", ".exact")] == ["analytic"] * 2 + ["exact"]
    *_, validation = files["mnist.onnx"]["parity"]
    assert validation["certified"] > 9_900
    assert files["mnist.onnx"]["accuracy"] > 0.9


def test_mnist_parity_holds_and_mnist_infer_reads_digits(published: Path, run, test_split, tmp_path: Path):
    assert b"Parity holds" in run("mnist-parity", published).stdout
    np.save(tmp_path / "digits.npy", test_split.images[:200])
    for kind in ("", ".uint8", ".exact"):
        result = run(
            "mnist-infer", "--model", published / f"mnist{kind}.onnx", "--format", "jsonl", tmp_path / "digits.npy"
        )
        assert result.returncode == 0, result.stderr
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert np.mean([a["label"] == label for a, label in zip(answers, test_split.labels, strict=False)]) > 0.9


def test_the_artifacts_contain_the_normalisation(net: nn.Module, published: Path, test_split):
    digits = test_split.images[:100].reshape(-1, 784)
    with torch.no_grad():
        wanted = net((torch.from_numpy(digits).reshape(-1, 1, 28, 28).float() / 255 - MEAN) / STD).numpy()
    for kind in ("", ".uint8"):
        logits = Classifier(published / f"mnist{kind}.onnx").decision_function(digits)
        np.testing.assert_allclose(logits, wanted, atol=1e-4)
    exact = Artifact.load(published / "mnist.exact.onnx").run(digits, "logits")[0]
    assert (exact.argmax(1) == wanted.argmax(1)).mean() > 0.97
    assert json.loads(Artifact.load(published / "mnist.onnx").metadata["training"])["normalisation"] == {
        "mean": MEAN, "std": STD,
    }  # fmt: skip


def test_raw_pixels_meet_one_product_and_one_sum(published: Path):
    import onnx

    operators = [node.op_type for node in onnx.load(published / "mnist.uint8.onnx").graph.node]
    assert operators[:3] == ["Cast", "Mul", "Add"]
    assert operators.count("Mul") == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"epoch": 3, "model": weights},
        lambda weights: {"state_dict": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"model_state_dict": {f"module.{name}": value for name, value in weights.items()}},
        lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
        lambda weights: {name: value.half() for name, value in weights.items()},
    ],
    ids=["plain", "model", "state_dict", "DataParallel", "compiled", "half"],
)
def test_a_state_dict_is_found_where_people_keep_it(wrap: Callable, net: nn.Module, folder: Path, tmp_path: Path):
    torch.save(wrap(net.state_dict()), tmp_path / "mnist.pth")
    loaded = load_weights(tmp_path / "mnist.pth", "own_network:Net").module
    pixels = torch.rand(2, 784)
    with torch.no_grad():
        assert torch.allclose(loaded(pixels), net(pixels.reshape(-1, 1, 28, 28)), atol=0.05)


def test_safetensors_of_any_origin_and_old_files_of_torch_are_taken(net: nn.Module, folder: Path, tmp_path: Path):
    save_file(net.state_dict(), tmp_path / "mnist.safetensors", metadata={"format": "pt"})
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("mnist.safetensors", "old.pt"):
        loaded = load_weights(tmp_path / name, "own_network:Net")
        assert torch.equal(loaded.module.module.fc2.bias, net.fc2.bias)
        assert loaded.record == {"model": "own_network:Net"}


SPECTRAL = """
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

class Spectral(nn.Sequential):
    def __init__(self):
        super().__init__(spectral_norm(nn.Linear(784, 16)), nn.ReLU(), nn.Linear(16, 10))
"""


def test_computed_weights_of_a_state_dict_become_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, test_split):
    (tmp_path / "spectral_network.py").write_text(SPECTRAL)
    monkeypatch.syspath_prepend(tmp_path)
    from spectral_network import Spectral

    module = Spectral()
    with torch.no_grad():
        module[0].parametrizations.weight.original *= 3
    torch.save(module.eval().state_dict(), tmp_path / "mnist.pt")
    checkpoint = load_weights(tmp_path / "mnist.pt", "spectral_network:Spectral")
    export(checkpoint, ["onnx-exact", "torchscript"], tmp_path / "out", max_accuracy_drop=100)
    pixels, _ = test_split.part(0, 20).tensors()
    with torch.no_grad():
        logits = torch.jit.load(tmp_path / "out" / "mnist.torchscript.pt")(pixels)
        torch.testing.assert_close(logits, module(pixels), rtol=0, atol=1e-5)


def _cut(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])


def _renamed(weights: dict) -> dict:
    return {name.replace("conv1", "conv_1"): value for name, value in weights.items() if name != "fc2.bias"}


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        (torch.save, r"holds an object of own_network\.Net.*torch\.save\(model\.state_dict"),
        (lambda net, path: torch.jit.script(net).save(path), r"is a program of TorchScript.*torch\.save\(model"),
        (
            lambda net, path: torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 28, 28),)), path),
            r"is a program of TorchScript or torch\.export",
        ),
        (
            lambda net, path: torch.save(_renamed(net.state_dict()), path),
            r"missing 'conv1\.weight' \(nearest 'conv_1\.weight'\), .*'fc2\.bias'; unexpected 'conv_1\.weight' \(",
        ),
        (lambda net, path: torch.save({**net.state_dict(), "fc2.bias": torch.zeros(9)}, path), r"fc2.bias. \[9\] ins"),
        (lambda _, path: torch.save({"epoch": 3}, path), "holds no state dict but a dict"),
        (lambda _, path: torch.save(torch.zeros(3), path), "holds no state dict but a Tensor"),
        (lambda _, path: path.write_bytes(b"\x89HDF\r\n\x1a\n" * 9), "is damaged, or no file of torch.save"),
        (_cut, "is damaged"),
    ],
    ids=["whole", "TorchScript", "pt2", "names", "shape", "no weights", "tensor", "other", "cut"],
)  # fmt: skip
def test_a_file_without_weights_for_the_class_is_refused_with_advice(
    save: Callable, sentence: str, net: nn.Module, folder: Path, tmp_path: Path
):
    save(net, tmp_path / "mnist.pt")
    with pytest.raises(CheckpointError, match=sentence):
        load_weights(tmp_path / "mnist.pt", "own_network:Net")


def test_a_file_takes_no_more_memory_than_its_bytes(net: nn.Module, folder: Path, tmp_path: Path):
    with (tmp_path / "large.pt").open("wb") as file:
        file.truncate(2**31 + 1)
    with pytest.raises(FileReadError, match=r"large\.pt is larger than 2,147,483,648 bytes"):
        load_weights(tmp_path / "large.pt", "own_network:Net")
    torch.save({"model": net.state_dict(), "optimizer": [torch.zeros(12345)]}, tmp_path / "honest.pt")
    load_weights(tmp_path / "honest.pt", "own_network:Net")
    with ZipFile(tmp_path / "honest.pt") as honest, ZipFile(tmp_path / "greedy.pt", "w") as greedy:
        for name in honest.namelist():
            before, number, after = honest.read(name).rpartition(b"M" + (12345).to_bytes(2, "little"))
            number = b"J" + (2**31 - 1).to_bytes(4, "little") if number and name.endswith("data.pkl") else number
            greedy.writestr(name, before + number + after)
    with pytest.raises(CheckpointError, match="claims tensors of more than 2,048 MiB"):
        load_weights(tmp_path / "greedy.pt", "own_network:Net")
    bomb = bytearray((tmp_path / "honest.pt").read_bytes())
    entry = bomb.rindex(b"PK\1\2")  # the last in the central directory; its unpacked size is at byte 24
    bomb[entry + 24 : entry + 28] = (2**32 - 16).to_bytes(4, "little")
    (tmp_path / "bomb.pt").write_bytes(bomb)
    with pytest.raises(CheckpointError, match="unpacks to more than 2,048 MiB"):
        load_weights(tmp_path / "bomb.pt", "own_network:Net")


@pytest.mark.parametrize(
    ("mean", "std"), [(0.1307, None), (None, 0.3081), (33.3, 78.6), (0.1, 0), (float("nan"), 1), (0, float("inf"))]
)
def test_an_impossible_normalisation_is_refused(mean: float | None, std: float | None, run, tmp_path: Path):
    with pytest.raises(OptionError, match=r"give both|must be those of pixels in \[0, 1\]"):
        export(nn.Linear(784, 10), ["onnx"], tmp_path, mean=mean, std=std)
    options = [
        word for name, value in (("--mean", mean), ("--std", std)) if value is not None for word in (name, value)
    ]
    result = run("mnist-export", *options, "--output-dir", tmp_path)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"Error: --mean and --std: mean" in result.stderr


class Pictures(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12 * 12, 10))


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.classify = nn.Linear(28, 4), nn.Linear(28 * 4, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        assert rows.shape[1:] == (28, 28)
        return self.classify(torch.relu(self.rows(rows)).flatten(1))


@pytest.mark.parametrize(("make", "shape"), [(Pictures, (1, 28, 28)), (Rows, (28, 28))])
def test_a_module_of_pictures_is_exported_in_every_format_that_can_hold_it(make, shape, test_split, tmp_path: Path):
    torch.manual_seed(0)
    module = make()
    export(module, ["onnx", "onnx-uint8", "torchscript", "pt2"], tmp_path, mean=0.5, std=0.5)
    digits = test_split.images[:20].reshape(-1, 784)
    with torch.no_grad():
        wanted = module((torch.from_numpy(digits).reshape(-1, *shape) / 255 - 0.5) / 0.5).numpy()
    for name in ("mnist.onnx", "mnist.uint8.onnx"):
        np.testing.assert_allclose(Classifier(tmp_path / name).decision_function(digits), wanted, atol=1e-4)


def test_a_first_layer_that_pads_normalised_pixels_has_no_exact_form(tmp_path: Path):
    module = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 10))
    with pytest.raises(ExportError, match="the layer '0' pads normalised pixels with 0, which is no pixel"):
        export(module, ["onnx-exact"], tmp_path, mean=MEAN, std=STD, max_accuracy_drop=100)
