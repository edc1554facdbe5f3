"""Modules as people write them: exported if they are functions of each digit, otherwise refused in one sentence."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from mnist_export import export
from mnist_export.errors import ExportError
from mnist_export.golden import golden_digits
from mnist_export.network import logits_in_float32, logits_in_float64, prepare
from mnist_runtime import Classifier

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Linear(nn.Module):
    """One linear layer, and a function of the pixels and of its logits."""

    def __init__(self, before: Callable = lambda x: x, after: Callable = lambda x: x) -> None:
        super().__init__()
        self.lin, self.before, self.after = nn.Linear(784, 10), before, after

    def forward(self, pixels: Tensor) -> Tensor:
        return self.after(self.lin(self.before(pixels)))


class Recurrent(nn.Module):
    """A recurrent layer over the 28 rows, whose first state is made in float32."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rows, self.lin = kind(28, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        state = torch.zeros(1, pixels.size(0), 24)
        states = (state, state) if isinstance(self.rows, nn.LSTM) else state
        return self.lin(self.rows(pixels.float().reshape(-1, 28, 28), states)[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(784, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.b.weight = self.a.weight
        self.c = nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(self.first(pixels))))))


class Extra(Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


@pytest.fixture(scope="module")
def digits(validation) -> np.ndarray:
    return golden_digits(validation)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Linear(before=lambda x: F.dropout(x, 0.5)), "differently from run to run.*F.dropout"),
        (Linear(before=lambda x: x + 0.1 * torch.randn_like(x)), "differently from run to run.*added noise"),
        (Linear(after=lambda x: x - x.mean(0)), "differently in batches of 1 and 20.*BatchNorm"),
        (Linear(after=nn.BatchNorm1d(10, track_running_stats=False)), "in a batch of 1, .*track_running_stats=True"),
        (Linear(after=lambda x: torch.softmax(x, -1)), "ends in a softmax.*remove the last softmax"),
        (Linear(after=lambda x: x / 0), "not finite"),
        (
            Linear(after=lambda x: x.mean(0, keepdim=True)),
            r"it makes \(1, 10\) of \d+ digits, and should make a row of logits for each",
        ),
    ],
)
def test_a_module_that_is_no_function_from_a_digit_to_logits_is_refused(module: nn.Module, sentence: str, digits):
    with pytest.raises(ExportError, match=sentence):
        logits_in_float32(module.eval(), digits)


def test_log_softmax_as_the_last_layer_is_accepted(digits):
    logits_in_float32(Linear(after=lambda x: torch.log_softmax(x, -1)).eval(), digits)


def _used(module: nn.Module) -> nn.Module:
    """Run a module in training, which leaves computed weights with gradients in the module."""
    module(torch.rand(2, 784)).sum().backward()
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: _used(nn.utils.weight_norm(nn.Linear(784, 10))),
        lambda: _used(nn.utils.spectral_norm(nn.Linear(784, 10))),
        lambda: _used(parametrizations.weight_norm(nn.Linear(784, 10))),
        lambda: _used(prune.l1_unstructured(nn.Linear(784, 10), "weight", 0.3)),
        Tied,
        Extra,
    ],
    ids=["weight_norm", "spectral_norm", "parametrised", "pruned", "tied", "extra state"],
)
def test_weights_that_are_computed_shared_or_accompanied_are_exported(make: Callable[[], nn.Module], tmp_path):
    module = make()
    export(module, ["onnx"], tmp_path)
    with torch.no_grad():
        wanted = module.eval()(torch.full((1, 784), 0.5)).numpy()
    logits = Classifier(tmp_path / "mnist.onnx").decision_function(np.full((1, 784), 128, np.uint8))
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_exported_and_answer_no_digits_too(kind: type[nn.RNNBase], tmp_path):
    (artifact,) = export(Recurrent(kind), ["onnx"], tmp_path)
    assert artifact.verdict.proof.bound == "derived"
    assert artifact.verdict.proof.obstacle
    assert Classifier(tmp_path / "mnist.onnx").decision_function(np.empty((0, 784), np.uint8)).shape == (0, 10)


def test_a_module_that_casts_to_float32_runs_in_float64_nevertheless(digits):
    torch.manual_seed(0)
    module = Linear(before=lambda x: x.float()).eval()
    logits = logits_in_float64(module, digits)
    with torch.no_grad():
        wanted = module.lin.weight.double() @ torch.from_numpy(digits / 256).T
    np.testing.assert_allclose(logits - module.lin.bias.detach().double().numpy(), wanted.numpy().T, atol=1e-12)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: nn.LazyLinear(10), "is lazy and has no weights yet; run it on a digit once"),
        (lambda: nn.Linear(784, 10, device="meta"), "on the device meta, without weights"),
        (lambda: nn.Linear(784, 10).state_dict(), "load it into its module with load_state_dict"),
        (lambda: torch.jit.script(nn.Linear(784, 10)), "export the nn.Module that it was made from"),
        (
            lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(784, 10)), {nn.Linear}),
            "is quantised already",
        ),
        (lambda: 3, "int is neither a module, a checkpoint nor a path"),
    ],
    ids=["lazy", "meta", "state dict", "script", "quantised", "number"],
)
def test_an_object_without_float_weights_is_refused_with_advice(make: Callable[[], object], sentence: str, tmp_path):
    with pytest.raises(ExportError, match=sentence):
        export(make(), ["onnx"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_preparing_leaves_the_module_as_it_was():
    module = _used(nn.utils.weight_norm(nn.Linear(784, 10))).train()
    prepare(module)
    assert module.training
    assert module.weight.grad_fn is not None
