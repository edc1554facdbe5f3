"""The lab's stages, each compared with the one before: same initial weights, same batches, 100 steps."""

import math
from pathlib import Path

import pytest
import requests
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from mnist_train import scratch
from mnist_train.data.bundled import Split
from mnist_train.fit import CHANCE_LOSS, evaluate, fit
from mnist_train.models import MLP, MNISTLogistic, build

LR, BATCH, STEPS = 0.5, 64, 100

BOUND = 100 * 2**-24
"""Largest difference of two stages' weights, all below 1: one rounding of float32 (u = 2**-24) per step."""

Trace = list[tuple[torch.Tensor, torch.Tensor]]
"""Weights [784, 10] and bias [10] after each step."""


@pytest.fixture(scope="module")
def first() -> tuple[torch.Tensor, torch.Tensor]:
    return scratch.init(torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def batches(request: pytest.FixtureRequest) -> list[scratch.Batch]:
    train: Split = request.getfixturevalue("train_split")
    x, y = train.tensors()
    return list(scratch.batches(x[: STEPS * BATCH], y[: STEPS * BATCH], BATCH))


def by_hand(first, batches, step=scratch.step_raw) -> Trace:
    weights, bias = (tensor.detach().clone().requires_grad_() for tensor in first)
    trace = []
    for batch in batches:
        step(weights, bias, batch, LR)
        trace.append((weights.detach().clone(), bias.detach().clone()))
    return trace


def as_linear(first) -> MNISTLogistic:
    model = MNISTLogistic()
    with torch.no_grad():
        model.lin.weight.copy_(first[0].T)
        model.lin.bias.copy_(first[1])
    return model


def of_linear(model: MNISTLogistic) -> tuple[torch.Tensor, torch.Tensor]:
    return model.lin.weight.detach().T.clone(), model.lin.bias.detach().clone()


def with_parameters(first, batches) -> Trace:
    model, trace = scratch.LogisticParameters(*first), []
    for batch in batches:
        scratch.step_module(model, batch, LR)
        trace.append((model.weights.detach().clone(), model.bias.detach().clone()))
    return trace


def with_linear(first, batches) -> Trace:
    model, trace = as_linear(first), []
    for batch in batches:
        scratch.step_module(model, batch, LR)
        trace.append(of_linear(model))
    return trace


def with_sgd(first, batches) -> Trace:
    model, trace = as_linear(first), []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in batches:
        scratch.step_optimizer(model, batch, optimizer)
        trace.append(of_linear(model))
    return trace


def with_loader(first, batches) -> Trace:
    model, trace = as_linear(first), []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    optimizer.register_step_post_hook(lambda *_: trace.append(of_linear(model)))
    scratch.train_epoch(model, DataLoader(digits(batches), BATCH), optimizer)
    return trace


def digits(batches) -> scratch.Digits:
    return scratch.Digits(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def with_fit(first, batches) -> Trace:
    model, trace = as_linear(first), []
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    fit(
        model,
        (x, y),
        (x, y),
        lr=LR,
        epochs=1,
        batch_size=BATCH,
        on_step=lambda *_: trace.append(of_linear(model)),
    )
    return trace


def with_functional(first, batches) -> Trace:
    return by_hand(first, batches, scratch.step_functional)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (by_hand, with_functional),
        (with_functional, with_parameters),
        (with_parameters, with_linear),
        (with_linear, with_sgd),
        (with_sgd, with_loader),
        (with_loader, with_fit),
    ],
    ids=["F.cross_entropy", "nn.Parameter", "nn.Linear", "torch.optim", "DataLoader", "fit()"],
)
def test_each_stage_computes_the_weights_of_the_stage_before(first, batches, before, after):
    expected, got = before(first, batches), after(first, batches)
    assert len(expected) == len(got) == STEPS
    for (w, b), (w2, b2) in zip(expected, got, strict=True):
        assert (w - w2).abs().max() <= BOUND
        assert (b - b2).abs().max() <= BOUND
    assert (expected[0][0] - expected[-1][0]).abs().max() > 1000 * BOUND  # and the weights changed


def steps_of_mlp(batches, walk) -> list[torch.Tensor]:
    """Return the weights of the MLP after the same first weights and the same dropout."""
    torch.manual_seed(0)
    model = MLP()
    walk(model, torch.optim.Adam(model.parameters()))
    return [p.detach().clone() for p in model.parameters()]


def test_the_loop_trains_the_mlp_as_single_steps_do(batches):
    def by_steps(model, optimizer):
        for batch in batches[:10]:
            scratch.step_optimizer(model, batch, optimizer)

    def by_loop(model, optimizer):
        own = torch.Generator()  # from which the loader takes its seed, and not from the dropout's
        scratch.train_epoch(model, DataLoader(digits(batches[:10]), BATCH, generator=own), optimizer)

    assert all(map(torch.equal, steps_of_mlp(batches, by_steps), steps_of_mlp(batches, by_loop)))


def test_a_data_module_shuffles_by_the_seed_and_measures_progress(monkeypatch, validation):
    few = {"train": validation.part(0, 640), "valid": validation.part(640, 1000)}
    monkeypatch.setattr(scratch, "load_split", few.__getitem__)

    def history(batch_size: int = BATCH) -> list[tuple[float, float]]:
        torch.manual_seed(0)
        model = MNISTLogistic()
        data = scratch.DataModule(batch_size, torch.device("cpu"))
        return scratch.fit_with_validation(model, data, torch.optim.SGD(model.parameters(), lr=LR), epochs=1)

    assert history() == history()
    before, after = history()
    assert before == pytest.approx((CHANCE_LOSS, 0.1), abs=0.2)
    assert after[1] > 0.6


def test_validate_computes_as_evaluate_does(batches):
    model, valid = as_linear(scratch.init()), digits(batches[:3])
    loader = DataLoader(valid, batch_size=50)  # the last batch is smaller
    assert scratch.validate(model, loader) == pytest.approx(evaluate(model, (valid.pixels, valid.labels)), rel=1e-5)


def test_mnist_train_takes_the_solution_of_the_second_exercise():
    assert isinstance(build("mnist_train.scratch:ConvolutionsWithSkip"), scratch.ConvolutionsWithSkip)


def test_untrained_weights_guess(batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    weights, bias = scratch.init(torch.Generator().manual_seed(0))
    assert weights.std().item() == pytest.approx(1 / math.sqrt(784), rel=0.05)
    assert not bias.any()
    loss = scratch.cross_entropy(scratch.log_softmax(scratch.linear(x, weights, bias)), y)
    assert loss.item() == pytest.approx(CHANCE_LOSS, abs=0.1)


def test_log_softmax_and_cross_entropy_are_those_of_pytorch(batches):
    x, y = batches[0]
    logits = scratch.linear(x, *scratch.init())
    ours = scratch.cross_entropy(scratch.log_softmax(logits), y)
    torch.testing.assert_close(ours, F.cross_entropy(logits, y))
    assert scratch.accuracy(scratch.log_softmax(logits), y) == scratch.accuracy(logits, y)


def test_log_softmax_is_stable():
    extreme = torch.tensor([[1e4, 0.0, -1e4], [-1e30, -1e30, -1e30]])
    torch.testing.assert_close(scratch.log_softmax(extreme), F.log_softmax(extreme, dim=1))


def test_accuracy_has_no_gradient(batches):
    x, y = batches[0]
    accuracy = scratch.accuracy(scratch.linear(x, *scratch.init()), y)
    with pytest.raises(RuntimeError, match="does not require grad"):
        accuracy.backward()


def test_download_keeps_an_existing_file(tmp_path: Path):
    (tmp_path / "mnist.pkl.gz").write_bytes(b"here already")
    assert scratch.download("http://127.0.0.1:1/mnist.pkl.gz", tmp_path).read_bytes() == b"here already"


def test_a_failed_download_leaves_no_file(tmp_path: Path):
    with pytest.raises(requests.ConnectionError):
        scratch.download("http://127.0.0.1:1/mnist.pkl.gz", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
