"""The average of the weights: its updates, and that it can be saved and restored."""

import pytest
import torch
from torch import nn

from mnist_train.averaging import WeightAverage


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def moved(model):
    """Move all weights of `model`, and count a batch in its normalisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    model.train()(torch.randn(4, 3))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_an_update_keeps_the_share_decay_of_the_average(model):
    average = WeightAverage(model, 0.75)
    before = {name: tensor.clone() for name, tensor in average.tensors().items()}
    now = moved(model)
    average.update(1_000)
    for name, tensor in average.tensors().items():
        wanted = now[name] if name.endswith("tracked") else 0.75 * before[name] + 0.25 * now[name]
        torch.testing.assert_close(tensor, wanted)


def test_weights_of_two_names_are_averaged_once_per_step():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    model[1].weight = model[0].weight
    average = WeightAverage(model, 0.75)
    before = average.model[0].weight.clone()
    with torch.no_grad():
        model[0].weight += 1
    average.update(1_000)
    torch.testing.assert_close(average.model[0].weight, before + 0.25)
    assert average.model[1].weight is average.model[0].weight


def test_the_random_initial_weights_lose_their_share_quickly(model):
    average = WeightAverage(model, 0.999)
    now = moved(model)
    for step in range(1, 100):
        average.update(step)
    torch.testing.assert_close(average.tensors()["0.weight"], now["0.weight"], atol=1e-6, rtol=0)


def test_without_a_decay_the_average_is_the_model(model):
    average = WeightAverage(model, 0)
    moved(model)
    average.update(1)
    assert average.model is model
    assert average.tensors() == {}


def test_a_restored_average_continues_as_the_saved_one(model):
    unbroken = WeightAverage(model, 0.9)
    moved(model)
    unbroken.update(50)
    resumed = WeightAverage(model, 0.9)
    resumed.restore({name: tensor.clone() for name, tensor in unbroken.tensors().items()})
    moved(model)
    for average in (unbroken, resumed):
        average.update(51)
    assert all(torch.equal(a, b) for a, b in zip(*(x.tensors().values() for x in (unbroken, resumed)), strict=True))
