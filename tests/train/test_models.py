"""Models: all are built, trained, saved and loaded alike, or refused in one sentence."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mnist_train import checkpoint
from mnist_train.errors import MnistEdgeError, ModelError
from mnist_train.fit import evaluate, fit
from mnist_train.models import CNN, MLP, build, knows_no_digit
from mnist_train.run import TrainingRun
from mnist_train.settings import TrainingSettings

OWN = """
import torch
from torch import nn

class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3),
            nn.Flatten(), nn.Linear(256, 10),
        )

    def forward(self, pixels):
        return self.body(pixels)

class Images(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 13 * 13, 10))

class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.classify = nn.GRU(28, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, rows):
        return self.classify(self.rows(rows)[0].mean(1))

class Extra(nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def get_extra_state(self):
        return {"steps": 3}

class Nine(nn.Linear):
    def __init__(self):
        super().__init__(784, 9)

class Pair(nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, pixels):
        return super().forward(pixels), None

class Squeezed(nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, pixels):
        return super().forward(pixels).squeeze()

class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyConv2d(2, 5), nn.Flatten(), nn.LazyLinear(10))

class Heads(nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, pixels):
        logits = super().forward(pixels)
        return (logits, logits) if self.training else logits

class Normalised(nn.Sequential):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(784), nn.Linear(784, 10))

class Broken(nn.Module):
    def forward(self, pixels):
        return self.missing(pixels)

class Frozen(nn.Module):
    def forward(self, pixels):
        return pixels[:, :10]

def function(pixels):
    return pixels
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a user's models in it."""
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "own_models:Convolutional", "own_models:Images"])
def test_every_model_is_trained_saved_and_loaded(own, name, train_split, validation):
    torch.manual_seed(0)
    model = build(name)
    x, y = train_split.tensors()
    valid = validation.tensors()
    history = fit(model, (x[:6400], y[:6400]), valid, lr=0.1, epochs=1)
    assert history[-1].valid_accuracy > 0.75
    checkpoint.save(own / "mnist.safetensors", model, {"model": name})
    loaded = checkpoint.load(own / "mnist.safetensors")
    assert not loaded.module.training
    assert evaluate(loaded.module, valid) == evaluate(model, valid)


def test_the_mlp_has_the_labs_layers():
    layers = [(layer.in_features, layer.out_features) for layer in MLP().layers if hasattr(layer, "in_features")]
    assert layers == [(784, 1024), (1024, 128), (128, 10)]
    assert [layer.p for layer in MLP().layers if isinstance(layer, torch.nn.Dropout)] == [0.5, 0.5]


def test_dropout_is_on_in_training_and_off_in_evaluation(validation):
    model = MLP()
    x, y = (tensor[:256] for tensor in validation.tensors())
    modes = []
    model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    fit(model, (x, y), (x, y), epochs=2, batch_size=128)
    assert modes == [(True, True), (True, True), (False, False)] * 2
    assert evaluate(model, (x, y)) == evaluate(model, (x, y))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit", "no model 'vit'; give linear, mlp, cnn or package.module:Class"),
        ("own_models:", "no model"),
        ("no_such_module:Class", "cannot be imported"),
        ("own_models:Missing", "cannot be imported"),
        ("..up:Class", "cannot be imported"),
        ("torch.nn:Linear", "torch.nn:Linear cannot be built without arguments"),
        ("own_models:function", "not a class of torch.nn.Module"),
        ("own_models:Nine", r"float32 \(2, 9\)"),
        ("own_models:Pair", "returns tuple"),
        ("own_models:Squeezed", r"for \(2, 784\) it returns \(10,\) for a single digit"),
        ("own_models:Broken", r"for \(2, 784\) it fails \(AttributeError.*for \(2, 1, 28, 28\) it fails"),
    ],
)
def test_a_name_of_no_digit_classifier_is_refused_in_a_sentence(own, name, sentence):
    with pytest.raises(ModelError, match=sentence) as caught:
        build(name)
    assert isinstance(caught.value, MnistEdgeError)


@pytest.mark.parametrize(
    ("name", "names"), [("Images", {"0.weight", "0.bias", "3.weight", "3.bias"}), ("Rows", None), ("Extra", None)]
)
def test_a_module_of_pictures_is_detected_and_keeps_the_names_of_its_weights(own, name, names):
    model = build(f"own_models:{name}")
    assert model(torch.zeros(3, 784)).shape == (3, 10)
    if names:
        checkpoint.save(own / "mnist.safetensors", model, {"model": f"own_models:{name}"})
        assert load_file(own / "mnist.safetensors").keys() == names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("Extra", "_extra_state in its state dict.*remove get_extra_state"), ("Frozen", "no parameter to train")],
)
def test_a_module_that_cannot_be_trained_or_saved_is_refused_before_the_first_step(own, few, name, sentence):
    settings = TrainingSettings(model=f"own_models:{name}", data=str(few), output_dir=str(own / "out"))
    with pytest.raises(ModelError, match=sentence):
        TrainingRun(settings)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        ("Heads", 64, "on a batch of size 64 (cross_entropy_loss"),
        ("Normalised", 99, "on a batch of size 1 (Expected"),
    ],
)
def test_a_module_that_fails_in_training_is_refused_in_a_sentence(own, train_split, name, size, sentence):
    digits = tuple(part[:100] for part in train_split.tensors())
    with pytest.raises(ModelError) as refusal:
        fit(build(f"own_models:{name}"), digits, digits, batch_size=size)
    assert sentence in str(refusal.value)


def test_the_shape_of_a_lazy_module_is_found(own):
    assert build("own_models:Lazy")(torch.zeros(3, 784)).shape == (3, 10)


def test_the_command_trains_a_class_of_the_current_folder(own, run, few):
    options = ("--model", "own_models:Convolutional", "--data", few, "--epochs", 1, "--output-dir", own / "out")
    result = run("mnist-train", *options, cwd=own)
    assert result.returncode == 0, result.stderr
    assert checkpoint.load(own / "out" / "mnist.safetensors").record["model"] == "own_models:Convolutional"


def test_the_cnn_is_small_and_has_only_layers_with_an_exact_form():
    model = CNN()
    assert sum(weights.numel() for weights in model.parameters() if weights.requires_grad) <= 25_000
    exact = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear)
    assert all(isinstance(layer, exact) for layer in model.layers)


def test_the_activations_of_the_cnn_fit_eight_kib_when_poolings_are_fused():
    sizes = [784]
    x = torch.zeros(1, 1, 28, 28)
    layers = list(CNN().eval().layers)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        x = layer(x)
        is_stored = isinstance(layer, nn.MaxPool2d | nn.Linear) or (
            isinstance(layer, nn.ReLU) and not isinstance(following, nn.MaxPool2d)
        )
        if is_stored:
            sizes.append(x.numel())
    assert max(a + b for a, b in pairwise(sizes)) <= 8 * 1024


@pytest.mark.parametrize(("name", "knows"), [("linear", False), ("mlp", False), ("cnn", True)])
def test_only_the_cnn_has_a_logit_for_no_digit(name, knows):
    assert knows_no_digit(build(name)) == knows
