"""The lab's stages, each held to the one before: same first weights, same batches, 100 steps."""

import math
from pathlib import Path

import pytest
import requests
import torch
import torch.nn.functional as F

from mnist_train import scratch
from mnist_train.data.bundled import Split
from mnist_train.fit import CHANCE_LOSS, fit
from mnist_train.models import MNISTLogistic

LR, BATCH, STEPS = 0.5, 64, 100

BOUND = 100 * 2**-24
"""How far two stages' weights, all below 1, may drift apart: a rounding of float32 (u = 2**-24) at every step."""

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
        (with_linear, with_fit),
    ],
    ids=["F.cross_entropy", "nn.Parameter", "nn.Linear", "fit()"],
)
def test_a_stage_walks_the_path_of_the_one_before(first, batches, before, after):
    expected, got = before(first, batches), after(first, batches)
    assert len(expected) == len(got) == STEPS
    for (w, b), (w2, b2) in zip(expected, got, strict=True):
        assert (w - w2).abs().max() <= BOUND
        assert (b - b2).abs().max() <= BOUND
    assert (expected[0][0] - expected[-1][0]).abs().max() > 1000 * BOUND  # and it went somewhere


def test_untrained_weights_guess(batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    weights, bias = scratch.init(torch.Generator().manual_seed(0))
    assert weights.std().item() == pytest.approx(1 / math.sqrt(784), rel=0.05)
    assert not bias.any()
    loss = scratch.cross_entropy(scratch.log_softmax(scratch.linear(x, weights, bias)), y)
    assert loss.item() == pytest.approx(CHANCE_LOSS, abs=0.1)


def test_the_hand_written_pair_is_pytorchs(batches):
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


def test_download_does_not_fetch_what_is_there(tmp_path: Path):
    (tmp_path / "mnist.pkl.gz").write_bytes(b"here already")
    assert scratch.download("http://127.0.0.1:1/mnist.pkl.gz", tmp_path).read_bytes() == b"here already"


def test_download_leaves_nothing_when_the_server_is_not_there(tmp_path: Path):
    with pytest.raises(requests.ConnectionError):
        scratch.download("http://127.0.0.1:1/mnist.pkl.gz", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
