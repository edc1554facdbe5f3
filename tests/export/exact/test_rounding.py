"""Rounding keeps a module's answers, reads modules in several forms, and refuses other layers by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_export.errors import ExportError
from mnist_export.exact.network import Convolution, InexactError
from mnist_export.exact.rounding import exact
from mnist_train.models import MLP


def _labels(module: nn.Module, digits: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(digits) / 256).argmax(dim=1).numpy()


def _agreement(module: nn.Module, training_digits: np.ndarray, digits: np.ndarray) -> float:
    return float((exact(module, training_digits).logits(digits).argmax(axis=1) == _labels(module, digits)).mean())


def test_the_labels_of_a_convolutional_network_survive(convolutional, training_digits, validation):
    assert _agreement(convolutional, training_digits, validation.images[:2000].reshape(-1, 784)) > 0.995


def test_the_labels_of_the_linear_model_survive(checkpoint, training_digits, validation):
    assert _agreement(checkpoint.module, training_digits, validation.images[:2000].reshape(-1, 784)) > 0.995


def test_logits_have_the_units_of_the_module(convolutional, training_digits, golden):
    network = exact(convolutional, training_digits)
    with torch.no_grad():
        wanted = convolutional(torch.from_numpy(golden[:20]) / 256).numpy()
    assert np.abs(network.logits(golden[:20]) * 2.0**network.exponent - wanted).max() < 0.05 * np.abs(wanted).max()


def test_the_perceptron_of_the_lab_can_be_rounded(training_digits):
    torch.manual_seed(0)
    network = exact(MLP(), training_digits)
    assert [layer.weight.shape for layer in network.layers] == [(1024, 784), (128, 1024), (10, 128)]


class _Functions(nn.Module):
    """The network of the fixture `every_layer`, written as a forward of functions."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        _, self.c1, self.b1, _, _, self.c2, _, _, _, self.l1, self.b2, _, _, self.l2, _ = layers

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.b1(self.c1(pixels.view(-1, 1, 28, 28)))), 3, stride=2)
        x = torch.relu(F.max_pool2d(self.c2(x), 2))
        x = self.b2(self.l1(x.view(x.size(0), -1))).relu()
        return F.log_softmax(self.l2(F.dropout(x, 0.5, self.training)), dim=1)


def test_a_forward_of_functions_is_read_as_its_layers(every_layer, network, training_digits, golden):
    assert np.array_equal(exact(_Functions(every_layer), training_digits).logits(golden), network.logits(golden))


class _Casting(nn.Module):
    """The same, with casts, keywords, builtins of torch and an input that is never given."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        _, self.c1, self.b1, _, _, self.c2, _, _, _, self.l1, self.b2, _, _, self.l2, _ = layers

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = torch.max_pool2d(self.b1(self.c1(input=pixels.float().view(-1, 1, 28, 28))), [3, 3], 2)
        x = F.relu(input=torch.max_pool2d(input=self.c2(F.dropout2d(F.relu(x), 0.5, self.training)), kernel_size=2))
        x = self.b2(self.l1(x.to(torch.float32).flatten(1))).relu()
        return self.l2(x if mask is None else x * mask)


def test_casts_keywords_builtins_and_optional_inputs_change_no_integer(every_layer, network, training_digits, golden):
    assert np.array_equal(exact(_Casting(every_layer), training_digits).logits(golden), network.logits(golden))


def test_a_lone_linear_layer_is_read_as_a_network(training_digits, golden):
    layer = nn.Linear(784, 10)
    alone, in_a_row = (exact(module, training_digits) for module in (layer, nn.Sequential(layer)))
    assert np.array_equal(alone.logits(golden), in_a_row.logits(golden))


@pytest.mark.parametrize(("named", "number"), [("valid", 0), ("same", 1)])
def test_a_padding_by_name_rounds_as_its_number(named: str, number: int, training_digits, golden):
    torch.manual_seed(0)
    pair = [
        _pictures(nn.Conv2d(1, 2, 3, padding=padding), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        for padding in (named, number)
    ]
    for module in pair:
        module(torch.zeros(1, 784))
    pair[1].load_state_dict(pair[0].state_dict())
    one, other = (exact(module, training_digits) for module in pair)
    assert np.array_equal(one.logits(golden), other.logits(golden))


def test_equal_modules_round_to_equal_integers(every_layer, network, training_digits):
    again = exact(every_layer, training_digits)
    for one, two in zip(network.layers, again.layers, strict=True):
        assert np.array_equal(one.weight, two.weight)
        assert np.array_equal(one.bias, two.bias)
    assert [layer.pool for layer in again.layers if isinstance(layer, Convolution)] == [3, 2]


def test_the_module_is_left_as_it_was(every_layer, training_digits):
    every_layer.train()
    exact(every_layer, training_digits)
    assert every_layer.training
    assert next(every_layer.parameters()).dtype == torch.float32
    every_layer.eval()


class _Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(784, 784), nn.Linear(784, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(pixels)) + pixels)


class _Halving(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.half().float()


class _Failing(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(-1, 783)


class _Branching(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, :10] if pixels.sum() > 0 else pixels[:, 10:20]


def _pictures(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *layers)


def _pooled_first(gain: float) -> nn.Module:
    norm = nn.BatchNorm2d(2)
    norm.weight.data[1], norm.bias.data[1] = gain, 0.1
    layers = nn.Conv2d(1, 2, 5), nn.MaxPool2d(2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    return _pictures(*layers).eval()


def test_a_norm_after_the_pooling_rounds_as_one_before_it(training_digits, golden):
    module = _pooled_first(gain=0.5)
    unflatten, convolution, pooling, norm, *rest = module
    usual = nn.Sequential(unflatten, convolution, norm, pooling, *rest).eval()
    one, other = (exact(each, training_digits) for each in (module, usual))
    assert np.array_equal(one.logits(golden), other.logits(golden))


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.Sequential(nn.Linear(784, 10), nn.Tanh(), nn.Linear(10, 10)), r"'1' \(Tanh\) cannot be made exact; an"),
        (_Skip(), r"layer 'add' \(add of more than the layer before it\)"),
        (_Branching(), "torch.fx cannot follow this module"),
        (nn.Sequential(_Failing(), nn.Linear(783, 10)), "torch.fx cannot follow this module .shape"),
        (nn.Sequential(nn.Linear(784, 20), nn.Linear(20, 10)), "'1' .Linear after '0' without a ReLU between"),
        (nn.Sequential(nn.Linear(784, 10), nn.ReLU()), "ends in a linear layer without ReLU"),
        (nn.Sequential(nn.LogSoftmax(dim=1), nn.Linear(784, 10)), "'0' .LogSoftmax. cannot"),
        (nn.Sequential(nn.Linear(784, 10), nn.Softmax(dim=1)), "'1' .Softmax. cannot"),
        (nn.Sequential(nn.Linear(784, 10), nn.ReLU(), nn.BatchNorm1d(10), nn.Linear(10, 10)), "'2' .BatchNorm"),
        (_pictures(nn.Conv2d(1, 2, 3, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 10)), "dilation="),
        (_pictures(nn.Conv2d(1, 2, 3, stride=(1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(676, 10)), "stride="),
        pytest.param(
            _pictures(nn.Conv2d(1, 2, 4, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)),
            "with padding='same'",
            marks=pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
        ),
        (nn.Sequential(_Halving(), nn.Linear(784, 10)), "'half' .half. cannot"),
        (_pictures(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 10)), "'1' .MaxPool2d. cannot"),
        (_pictures(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, padding=1), nn.Flatten(), nn.Linear(392, 10)), "padding=1"),
        (_pictures(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(338, 10)), "'3' .AvgPool2d"),
        (_pictures(nn.Linear(28, 10), nn.Flatten(), nn.Linear(280, 10)), r"of inputs \(1, 28, 28\) where \(784,\)"),
        (nn.Sequential(nn.BatchNorm1d(784), nn.Linear(784, 10)), "'0' .BatchNorm1d. cannot"),
        (_pooled_first(gain=-1), "'3' .BatchNorm2d of negative gains after the pooling of '1'"),
    ],
)  # fmt: skip
def test_a_layer_without_an_exact_form_is_refused_by_its_name(module, sentence, training_digits):
    with pytest.raises(ExportError, match=sentence) as error:
        exact(module.eval(), training_digits[:20])
    assert "\n" not in str(error.value)


def test_dropout_in_evaluation_mode_is_refused(training_digits):
    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(784, 10)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.lin(F.dropout(pixels))

    with pytest.raises(ExportError, match=r"'dropout' \(dropout\) cannot"):
        exact(Restless(), training_digits[:20])


def test_biases_too_large_for_any_rounding_are_refused(training_digits):
    module = nn.Sequential(nn.Linear(784, 10))
    with torch.no_grad():
        module[0].weight *= 1e-9
        module[0].bias += 1e9
    with pytest.raises(InexactError, match="layer '0' cannot be made exact, because its sums may pass"):
        exact(module, training_digits[:20])
