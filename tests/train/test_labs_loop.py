"""The training loop beside a plain transcription of the lab's loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from mnist_train.errors import DivergenceError
from mnist_train.fit import CHANCE_LOSS, Data, evaluate, fit
from mnist_train.models import MNISTLogistic


@pytest.fixture(scope="module")
def data(validation) -> Data:
    pixels, labels = validation.tensors()
    return pixels[:1000], labels[:1000]


@pytest.fixture(scope="module")
def held_out(validation) -> Data:
    pixels, labels = validation.tensors()
    return pixels[1000:], labels[1000:]


@pytest.fixture
def model() -> MNISTLogistic:
    torch.manual_seed(0)
    return MNISTLogistic()


def labs_loop(model, pixels, labels, lr, epochs, bs) -> list[float]:
    """Train as the lab does; return the mean loss per digit of each epoch."""
    means = []
    for _ in range(epochs):
        total = 0.0
        for i in range((len(pixels) - 1) // bs + 1):
            xb, yb = pixels[i * bs : i * bs + bs], labels[i * bs : i * bs + bs]
            loss = F.cross_entropy(model(xb), yb)
            total += loss.item() * len(xb)
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= p.grad * lr
                model.zero_grad()
        means.append(total / len(pixels))
    return means


@pytest.mark.parametrize("batch_size", [1, 64, 300, 1000, 5000])
def test_fit_equals_the_labs_loop_bit_for_bit(data, held_out, model, batch_size):
    twin = MNISTLogistic()
    twin.load_state_dict(model.state_dict())
    history = fit(model, data, held_out, lr=0.1, epochs=2, batch_size=batch_size)
    losses = labs_loop(twin, *data, lr=0.1, epochs=2, bs=batch_size)
    assert torch.equal(model.lin.weight, twin.lin.weight)
    assert torch.equal(model.lin.bias, twin.lin.bias)
    assert [epoch.train_loss for epoch in history] == pytest.approx(losses, rel=1e-5)


def test_an_untrained_model_guesses(model, held_out):
    loss, right = evaluate(model, held_out)
    assert loss == pytest.approx(CHANCE_LOSS, abs=0.1)
    assert pytest.approx(math.log(10)) == CHANCE_LOSS
    assert right < 0.25


def test_training_learns_digits_it_has_not_seen(data, held_out, model):
    history = fit(model, data, held_out, epochs=2)
    assert history[-1].valid_accuracy > 0.8
    assert (history[-1].valid_loss, history[-1].valid_accuracy) == evaluate(model, held_out)


def test_hooks_are_called_after_every_step_and_every_epoch(data, held_out, model):
    steps, epochs = [], []
    history = fit(model, data, held_out, batch_size=300, on_step=lambda: steps.append(1), on_epoch=epochs.append)
    assert len(steps) == 2 * 4
    assert epochs == history
    assert [epoch.epoch for epoch in history] == [1, 2]


def test_a_model_is_trained_in_training_mode_and_evaluated_in_evaluation_mode(data, held_out):
    modes = []

    class Watched(MNISTLogistic):
        def forward(self, pixels):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(pixels)

    fit(Watched(), data, held_out, epochs=1, batch_size=500)
    assert modes == [(True, True), (True, True), (False, False)]


def test_a_parameter_without_a_gradient_does_not_change(data, held_out):
    class WithSpare(MNISTLogistic):
        def __init__(self):
            super().__init__()
            self.spare = torch.nn.Parameter(torch.ones(3))

    model = WithSpare()
    fit(model, data, held_out, epochs=1)
    assert torch.equal(model.spare, torch.ones(3))


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(data, held_out, model):
    with pytest.raises(DivergenceError, match="in epoch 1, step 2, at learning rate 1e\\+38"):
        fit(model, data, held_out, lr=1e38)


def test_evaluation_in_batches_equals_evaluation_of_the_whole(model, held_out, monkeypatch):
    whole = evaluate(model, held_out)
    monkeypatch.setattr("mnist_train.fit._EVALUATION_BATCH", 777)
    assert evaluate(model, held_out) == pytest.approx(whole, rel=1e-5)
