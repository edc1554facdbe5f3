"""Optimizers and schedules: all compute what torch's own compute."""

import pytest
import torch

from mnist_train.fit import fit
from mnist_train.models import MNISTLogistic
from mnist_train.optimizers import SCHEDULES, make_optimizer


def trained(batch, name: str, **options: object) -> torch.Tensor:
    torch.manual_seed(0)
    model = MNISTLogistic()
    schedule = SCHEDULES[str(options.pop("schedule", "constant"))]
    optimizer = make_optimizer(name, model.parameters(), **options)
    fit(model, batch, batch, lr=0.1, epochs=3, batch_size=64, optimizer=optimizer, schedule=schedule)
    return model.lin.weight.detach()


@pytest.fixture(scope="module")
def batch(validation):
    x, y = validation.tensors()
    return x[:640], y[:640]


def by_torch(batch, optimizer, scheduler=None) -> torch.Tensor:
    torch.manual_seed(0)
    model = MNISTLogistic()
    optimizer = optimizer(model.parameters())
    scheduler = scheduler(optimizer) if scheduler else None
    for _ in range(3):
        for start in range(0, 640, 64):
            rows = slice(start, start + 64)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch[0][rows]), batch[1][rows]).backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
    return model.lin.weight.detach()


def test_the_plain_update_is_sgd(batch):
    wanted = by_torch(batch, lambda p: torch.optim.SGD(p, lr=0.1))
    torch.testing.assert_close(trained(batch, "plain"), wanted, rtol=0, atol=30 * 2**-24)


def test_momentum_and_weight_decay_are_torchs(batch):
    wanted = by_torch(batch, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01))
    assert torch.equal(trained(batch, "sgd", momentum=0.9, weight_decay=0.01), wanted)


def test_adamw_is_torchs(batch):
    wanted = by_torch(batch, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01))
    assert torch.equal(trained(batch, "adamw", weight_decay=0.01), wanted)


def test_cosine_is_torchs(batch):
    wanted = by_torch(
        batch,
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=30),
    )
    torch.testing.assert_close(trained(batch, "sgd", schedule="cosine"), wanted)


@pytest.mark.parametrize("name", ["plain", "sgd", "adamw"])
def test_a_restored_optimizer_has_the_saved_buffers(batch, name):
    x, y = batch
    model = MNISTLogistic()
    options = {"momentum": 0.9} if name == "sgd" else {}
    first = make_optimizer(name, model.parameters(), **options)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    first.step(0.1)
    second = make_optimizer(name, model.parameters(), **options)
    second.restore(first.tensors())
    assert {key: value.tolist() for key, value in second.tensors().items()} == {
        key: value.tolist() for key, value in first.tensors().items()
    }
    assert bool(first.tensors()) == (name != "plain")
