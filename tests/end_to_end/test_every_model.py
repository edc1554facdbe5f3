"""Models other than the default: trained, exported, proved, and asked for a digit's label."""

import json
from pathlib import Path

import numpy as np
import pytest

OWN = """
from torch import nn

class Convolutional(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(),
            nn.Linear(256, 10),
        )
"""


@pytest.mark.parametrize("model", ["mlp", "own_convolution:Convolutional"])
def test_a_model_is_trained_exported_proved_and_used(run, tmp_path: Path, train_digits, model):
    (tmp_path / "own_convolution.py").write_text(OWN)
    images, labels = train_digits
    np.savez(tmp_path / "digits.npz", x_train=images, y_train=labels)
    options = ("--model", model, "--data", "digits.npz", "--lr", "0.1", "--epochs", "4", "--device", "cpu")
    trained = run("mnist-train", *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    exported = run("mnist-export", "--format", "onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    proved = run("mnist-parity", "artifacts/mnist.onnx", cwd=tmp_path)
    assert proved.returncode == 0, proved.stderr
    np.save(tmp_path / "some.npy", images[:100])
    said = run("mnist-infer", "some.npy", "--model", "artifacts/mnist.onnx", "--format", "json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    right = [answer["label"] for answer in json.loads(said.stdout)] == labels[:100]
    assert right.mean() > 0.8


@pytest.fixture(scope="module")
def train_digits():
    from mnist_train.data.bundled import load_split

    split = load_split("train")
    return split.images[:3000], split.labels[:3000]
