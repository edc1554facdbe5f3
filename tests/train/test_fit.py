"""The training loop: it learns, measures correctly, continues from a position, and stops when the loss is NaN."""

import math

import pytest
import torch
import torch.nn.functional as F

from mnist_train.averaging import WeightAverage
from mnist_train.errors import DivergenceError
from mnist_train.fit import CHANCE_LOSS, Position, evaluate, fit
from mnist_train.models import MNISTLogistic
from mnist_train.optimizers import cosine


@pytest.fixture
def digits(validation, device):
    x, y = validation.tensors(device)
    return x[:1000], y[:1000]


@pytest.fixture
def model(device):
    torch.manual_seed(0)
    return MNISTLogistic().to(device)


def test_fit_learns_real_digits(model, train_split, validation, device):
    untrained, right = evaluate(model, validation.tensors(device))
    assert untrained == pytest.approx(CHANCE_LOSS, abs=0.1)
    assert right < 0.25
    history = fit(model, train_split.tensors(device), validation.tensors(device))
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert history[1].valid_loss < history[0].valid_loss < untrained
    assert history[1].valid_accuracy > 0.91


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
def test_fit_equals_the_labs_loop_bit_for_bit(validation, batch_size):
    pixels, labels = validation.part(0, 1000).tensors()
    model, twin = MNISTLogistic(), MNISTLogistic()
    twin.load_state_dict(model.state_dict())
    history = fit(model, (pixels, labels), (pixels, labels), lr=0.1, epochs=2, batch_size=batch_size)
    losses = labs_loop(twin, pixels, labels, lr=0.1, epochs=2, bs=batch_size)
    assert torch.equal(model.lin.weight, twin.lin.weight)
    assert torch.equal(model.lin.bias, twin.lin.bias)
    assert [epoch.train_loss for epoch in history] == pytest.approx(losses, rel=1e-5)


def test_hooks_are_called_after_every_step_and_every_epoch(model, digits):
    steps, epochs = [], []
    history = fit(model, digits, digits, batch_size=300, on_step=lambda: steps.append(1), on_epoch=epochs.append)
    assert len(steps) == 2 * 4
    assert epochs == history
    assert [epoch.epoch for epoch in history] == [1, 2]


@pytest.mark.parametrize(("name", "tolerance"), [("_EVALUATION_BATCH", 1e-5), ("_FORWARD", 1e-6)])
def test_evaluation_in_parts_equals_evaluation_of_the_whole(model, digits, monkeypatch, name, tolerance):
    whole = evaluate(model, digits)
    monkeypatch.setattr(f"mnist_train.fit.{name}", 77)
    assert evaluate(model, digits) == pytest.approx(whole, rel=tolerance)


def test_the_record_of_an_epoch_is_correct(model, digits):
    x, y = digits
    (epoch,) = fit(model, digits, digits, epochs=1, batch_size=300, lr=1e-30)
    with torch.no_grad():
        losses = [F.cross_entropy(model(x[i : i + 300]), y[i : i + 300]).item() for i in range(0, 1000, 300)]
        assert epoch.train_loss == pytest.approx((300 * sum(losses[:3]) + 100 * losses[3]) / 1000, rel=1e-6)
        assert epoch.curve == pytest.approx(losses, rel=1e-6)
        assert epoch.valid_loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)
        assert epoch.valid_accuracy == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    assert epoch.metrics().keys() == {"epoch", "train_loss", "valid_loss", "valid_accuracy"}


@pytest.mark.parametrize(("bad", "step"), [(0, 1), (130, 3), (999, 16)])
def test_a_nan_names_epoch_step_and_learning_rate(model, digits, bad, step):
    x = digits[0].clone()
    x[bad, 5] = math.nan
    with pytest.raises(DivergenceError, match=f"nan in epoch 1, step {step}, at learning rate 0.25; .*lower --lr"):
        fit(model, (x, digits[1]), digits, lr=0.25)


def test_labels_are_smoothed_in_training_only(model, digits):
    x, y = digits
    (epoch,) = fit(model, digits, digits, epochs=1, batch_size=1000, lr=1e-30, label_smoothing=0.2)
    with torch.no_grad():
        assert epoch.train_loss == pytest.approx(F.cross_entropy(model(x), y, label_smoothing=0.2).item(), rel=1e-6)
        assert epoch.valid_loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)


def test_the_average_of_the_weights_is_evaluated(model, digits):
    average = WeightAverage(model, 0.9)
    (epoch,) = fit(model, digits, digits, epochs=1, batch_size=100, average=average)
    assert (epoch.valid_loss, epoch.valid_accuracy) == evaluate(average.model, digits)
    assert (epoch.valid_loss, epoch.valid_accuracy) != evaluate(model, digits)


def test_accuracy_ignores_the_logit_of_no_digit(model, digits):
    class SurelyNoDigit(torch.nn.Module):
        def forward(self, pixels):
            logits = model(pixels)
            return torch.cat([logits, torch.full_like(logits[:, :1], 100)], dim=1)

    assert evaluate(SurelyNoDigit(), digits)[1] == evaluate(model, digits)[1] > 0


def test_a_nan_is_found_within_a_hundred_steps(model, digits):
    x = digits[0].clone()
    x[150] = math.nan
    steps = []
    with pytest.raises(DivergenceError, match="step 151,"):
        fit(model, (x, digits[1]), digits, batch_size=1, on_step=lambda: steps.append(1))
    assert len(steps) < 200


def test_a_nan_in_validation_stops_the_training(model, digits):
    with pytest.raises(DivergenceError, match="in epoch 1"):
        fit(model, digits, (digits[0] * math.nan, digits[1]))


def test_training_continues_from_the_position_that_an_exception_left(device, digits):
    def weights_after(stop: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model, position = MNISTLogistic().to(device), Position()

        def on_step() -> None:
            if (position.epoch, position.step) == (2, stop):
                raise KeyboardInterrupt

        try:
            fit(model, digits, digits, epochs=3, schedule=cosine, position=position, on_step=on_step)
        except KeyboardInterrupt:
            fit(model, digits, digits, epochs=3, schedule=cosine, position=position)
        assert [epoch.epoch for epoch in position.history] == [1, 2, 3]
        return model.lin.weight

    assert torch.equal(weights_after(None), weights_after(7))


def test_frozen_parameters_do_not_change(model, digits):
    model.lin.bias.requires_grad_(requires_grad=False)
    before = model.lin.bias.clone()
    fit(model, digits, digits, epochs=1)
    assert torch.equal(model.lin.bias, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_no_step_waits_for_the_gpu(validation):
    x, y = validation.tensors("cuda")
    steps = iter(range(50))

    def on_step() -> None:
        torch.cuda.set_sync_debug_mode("error" if next(steps) < 49 else "default")

    try:
        fit(MNISTLogistic().cuda(), (x[:3200], y[:3200]), (x, y), epochs=1, on_step=on_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
