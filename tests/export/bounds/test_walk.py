"""The walk: its bounds hold in exact arithmetic and in engines, and reveal a changed weight."""

from fractions import Fraction

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional as F

from mnist_export.bounds.rules import NoRuleError
from mnist_export.bounds.walk import Walk, walk
from mnist_export.golden import single_pixels
from mnist_export.onnx import trace


class Convolutional(nn.Module):
    """A normalised input, batch norm and poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classify = nn.Linear(8 * 5 * 5, 10)
        norm = self.features[1]
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classify(self.features((pixels.unflatten(1, (1, 28, 28)) - 0.25) / 0.5).flatten(1))


class Every(nn.Module):
    """Most operators that have a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=2)
        self.c, self.d = nn.Linear(4 * 49, 16), nn.Linear(16, 10, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.tanh(self.a(pixels.reshape(-1, 1, 28, 28)))
        x = F.hardswish(x) + F.gelu(x) - F.leaky_relu(x) + F.silu(x) * F.hardsigmoid(x)
        x = torch.cat([self.b(x)[:, :2], F.relu6(x)[:, 2:]], dim=1)
        x = F.pad(F.avg_pool2d(x, 2), (1, 1, 1, 1))[:, :, 1:8, 1:8]
        hidden = torch.sigmoid(self.c(x.transpose(2, 3).flatten(1)))
        return F.log_softmax(self.d(hidden + x.mean((1, 2, 3)).unsqueeze(1)), dim=-1)


class Affines(nn.Module):
    """Constants after linear layers, a norm without one before it, poolings that overlap and pad, an inner softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.classify = nn.Conv2d(1, 24, 5), nn.Linear(24, 10)
        self.first, self.last = nn.BatchNorm2d(24), nn.BatchNorm1d(10)
        for norm in (self.first, self.last):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
        self.register_buffer("channel", torch.rand(24, 1, 1) + 0.5)
        self.register_buffer("row", torch.rand(24))  # as long as there are channels, and not one per channel

    def forward(self, pixels: Tensor) -> Tensor:
        x = (self.convolve(pixels.reshape(-1, 1, 28, 28)) - self.channel) / 1.7 * self.channel
        x = self.first(torch.relu(0.7 - (x + self.row)))
        x = F.max_pool2d(F.max_pool2d(x, 3, stride=2), 3, stride=2, padding=1).mean((2, 3))
        return self.last(self.classify(x + 5 * torch.softmax(x, dim=1)) * 0.5) - 0.25


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "mlp": lambda: nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)),
        "convolutional": Convolutional,
        "every": Every,
        "affines": Affines,
    }
    return made[name]().eval()


@pytest.fixture(scope="module", params=["mlp", "convolutional", "every", "affines"])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, ModelProto, ModelProto]:
    """A module, its graph as traced, and its graph as published."""
    module = _network(request.param)
    return module, *trace(module)


@pytest.fixture(scope="module")
def digits(test_split) -> NDArray[np.uint8]:
    real = test_split.images[:100].reshape(-1, 784)
    return np.concatenate([real, single_pixels()[::8], np.zeros((1, 784), np.uint8), np.full((1, 784), 255, np.uint8)])


@pytest.fixture(scope="module")
def walked(network, digits) -> Walk:
    return walk(network[1], digits)


def _pixels(digits: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (digits / 256).astype(np.float32)


def _share(logits: NDArray, walked: Walk) -> float:
    assert (walked.probable <= walked.worst_case * (1 + 1e-3)).all()
    return float((np.abs(logits - walked.logits) / walked.probable).max())


def test_the_values_are_those_of_the_module_in_float64(network, digits, walked):
    with torch.no_grad():
        logits = network[0].double()(torch.from_numpy(digits / 256)).numpy()
    network[0].float()
    np.testing.assert_allclose(walked.logits, logits, rtol=0, atol=1e-6)
    assert _share(logits, walked) < 0.01


def test_pytorch_stays_within_the_bound(network, digits, walked):
    with torch.no_grad():
        assert 0 < _share(network[0](torch.from_numpy(_pixels(digits))).numpy(), walked) < 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_onnxruntime_stays_within_the_bound(network, digits, walked, level: str, threads: int):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    for graph in network[1:]:
        session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        assert 0 < _share(session.run(["logits"], {"pixels": _pixels(digits)})[0], walked) < 1


def test_the_values_agree_with_rational_arithmetic(digits):
    """Rational arithmetic does not round."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(784, 4), nn.ReLU(), nn.Linear(4, 10)).eval()
    first, _, last = module
    exact = [[Fraction(w) for w in row] for row in first.weight.tolist()]
    exact_last = [[Fraction(w) for w in row] for row in last.weight.tolist()]
    found = walk(trace(module)[0], digits[:3])
    for digit, logits, probable in zip(digits[:3], found.logits, found.probable, strict=True):
        lit = [(pixel, Fraction(int(digit[pixel]), 256)) for pixel in np.flatnonzero(digit)]
        sums = [sum(row[pixel] * ink for pixel, ink in lit) for row in exact]
        hidden = [max(each + Fraction(b), Fraction(0)) for each, b in zip(sums, first.bias.tolist(), strict=True)]
        for row, b, logit, bound in zip(exact_last, last.bias.tolist(), logits, probable, strict=True):
            truth = sum(w * h for w, h in zip(row, hidden, strict=True)) + Fraction(b)
            assert abs(truth - Fraction(float(logit))) < Fraction(float(bound)) / 10**6


@pytest.mark.parametrize(
    ("name", "count", "by_bound", "by_margin"), [("mlp", 200, 95, 140), ("convolutional", 50, 0, 45)]
)
def test_single_weight_changes_of_a_thousandth_are_found(
    name: str, count: int, by_bound: int, by_margin: int, test_split
):
    """Count those found; the margin is the gate's second limit beside the bounds."""
    module = _network(name)
    traced, _ = trace(module)
    digits = np.concatenate([test_split.images[:50].reshape(-1, 784), single_pixels()])
    walked = walk(traced, digits)
    with torch.no_grad():
        margin = 8 * np.abs(module(torch.from_numpy(_pixels(digits))).numpy() - walked.logits).max()
    draw = np.random.default_rng(4)
    parameters = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    sizes = np.array([parameter.numel() for parameter in parameters])
    beyond_bound = beyond_margin = 0
    for which in draw.choice(len(parameters), count, p=sizes / sizes.sum()):
        weights = parameters[which].data.view(-1)
        place = int(draw.integers(len(weights)))
        kept = weights[place].clone()
        weights[place] *= 1.001
        with torch.no_grad():
            error = np.abs(module(torch.from_numpy(_pixels(digits))).numpy() - walked.logits)
        beyond_bound += (error > walked.probable).any()
        beyond_margin += (error > np.minimum(walked.probable, margin)).any()
        weights[place] = kept
    assert beyond_bound >= by_bound
    assert beyond_margin >= by_margin


def test_an_operator_without_a_rule_is_named():
    traced, _ = trace(nn.Sequential(nn.Linear(784, 8), nn.Softplus(), nn.Linear(8, 10)))
    with pytest.raises(NoRuleError, match="Softplus"):
        walk(traced, np.zeros((1, 784), np.uint8))


class _LastRow(nn.Module):
    """The last of 28 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(28, 16), nn.Linear(16, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(pixels.reshape(-1, 28, 28)))[:, -1])


def test_an_index_counted_from_the_end_is_followed(digits):
    torch.manual_seed(0)
    module = _LastRow().eval()
    walked = walk(trace(module)[0], digits)
    with torch.no_grad():
        assert _share(module(torch.from_numpy(_pixels(digits))).numpy(), walked) < 1


class _Permuted(nn.Module):
    """A buffer of indices, whose shape the exporter computes by a Max of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(784))
        self.b = nn.Linear(784, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.b(pixels[:, self.order])


class _Indices(nn.Module):
    """A network that computes with the second output of MaxPool."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(196, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        largest, places = F.max_pool2d(pixels.reshape(-1, 1, 28, 28), 2, return_indices=True)
        return self.b((largest + places.float()).flatten(1))


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (nn.Sequential(nn.Unflatten(1, (28, 28)), nn.TransformerEncoderLayer(28, 4, 32, batch_first=True)), "Sqrt"),
        (_Permuted(), "GatherND"),
        (_Indices(), "Slice"),
    ],
    ids=["transformer", "permutation", "indices"],
)
def test_a_use_that_no_rule_foresees_names_its_operator(module: nn.Module, operator: str):
    with pytest.raises(NoRuleError, match=operator):
        walk(trace(module.eval())[0], np.zeros((1, 784), np.uint8))


def test_a_constant_affine_that_an_optimiser_folds_widens_the_bound():
    """A sum of one lit pixel has two terms, so that the rounding of the weights is visible."""
    layer = nn.Linear(784, 10, bias=False)
    scaled = trace(nn.Sequential(layer, _Scaled()))[0]
    plain = trace(layer)[0]
    one = single_pixels()[300:301]
    assert (walk(scaled, one).probable > 1.4 * 1.7 * walk(plain, one).probable).all()


class _Scaled(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits * 1.7
