"""The exact network computes integers, and one whose sums float32 might not hold is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mnist_export.exact.network import LIMIT, Convolution, ExactNetwork, InexactError, Linear
from mnist_export.golden import single_pixels


def _by_torch(network: ExactNetwork, digits: np.ndarray) -> np.ndarray:
    """Compute the same integers by torch's operators in float64."""
    x = torch.from_numpy(digits.reshape(-1, 1, 28, 28)).double()
    for layer in network.layers:
        weight, bias = (torch.from_numpy(a.astype(np.float64)) for a in (layer.weight, layer.bias))
        if isinstance(layer, Convolution):
            x = F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding)
        else:
            x = F.linear(x.flatten(1), weight, bias)
        if layer.shift is not None:
            scale = torch.from_numpy(0.5**layer.shift).reshape(-1, *[1] * (x.ndim - 2))
            x = torch.floor(x * scale).clip(0, 255)
        if isinstance(layer, Convolution):
            x = F.max_pool2d(x, layer.pool, layer.pool_stride)
    return x.numpy()


def test_logits_are_the_integers_that_torch_computes_in_float64(network, golden):
    digits = np.concatenate([golden, single_pixels()[::9]])
    logits = network.logits(digits)
    assert logits.dtype == np.int64
    assert np.array_equal(logits, _by_torch(network, digits))
    assert len(np.unique(logits)) > len(digits)


def test_no_digits_have_no_logits(network, golden):
    assert network.logits(golden[:0]).shape == (0, 10)


def test_bounds_hold_for_the_worst_pixels_and_are_reached():
    weight = np.array([[1, -2] * 392, [3, 0] * 392], np.int8)
    network = ExactNetwork((Linear(weight, np.array([5, -7], np.int32), None),), 0)
    assert network.bounds() == [max(392 * 3 * 255 + 5, 392 * 3 * 255 + 7)]
    worst = np.where(weight[1] > 0, 255, 0).astype(np.uint8)[None]
    assert network.logits(worst)[0, 1] == 392 * 3 * 255 - 7


def test_a_network_whose_sums_may_reach_the_limit_cannot_be_made():
    weight = np.full((10, 784), 83, np.int8)
    room = LIMIT - 784 * 83 * 255
    ExactNetwork((Linear(weight, np.full(10, room - 1, np.int32), None),), 0)
    with pytest.raises(InexactError, match="sums of layer 1 may reach 16,777,216, and float32 is exact below"):
        ExactNetwork((Linear(weight, np.full(10, -room, np.int32), None),), 0)


def test_only_the_last_layer_keeps_its_sums(network):
    with pytest.raises(InexactError, match="must keep its sums"):
        replace(network, layers=network.layers[:-1])
    with pytest.raises(InexactError, match="must keep its sums"):
        replace(network, layers=(*network.layers[:-2], replace(network.layers[-2], shift=None), network.layers[-1]))


def test_a_shift_that_c_leaves_undefined_is_refused(network):
    shift = np.full_like(network.layers[0].shift, 25)
    with pytest.raises(InexactError, match="larger than 24 bits"):
        replace(network, layers=(replace(network.layers[0], shift=shift), *network.layers[1:]))


@pytest.mark.parametrize("drop", [0, 1, 2])
def test_layers_that_do_not_fit_one_another_are_refused(network, drop):
    with pytest.raises(InexactError, match="does not fit"):
        replace(network, layers=network.layers[:drop] + network.layers[drop + 1 :])


def test_a_network_counts_its_weights_and_outputs(network):
    assert (network.outputs, network.shapes()[0], network.shapes()[-1]) == (10, (1, 28, 28), (10, 1, 1))
    assert network.weights == 6 * 25 + 6 + 10 * 54 + 10 + 90 * 20 + 20 + 200 + 10
