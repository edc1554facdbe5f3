"""Pictures of what is no digit: every kind has ink, the seed determines them, and they replace some digits."""

import numpy as np
import pytest
import torch

from mnist_train import no_digit
from mnist_train.data.batches import Altered, InMemory
from mnist_train.no_digit import mixed_with, no_digits

KINDS = ("letter", "scribble", "polygon", "symbol", "dashes", "dots")


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_shows_ink_clear_of_the_border(kind):
    rng = np.random.default_rng(0)
    for _ in range(30):
        drawing = getattr(no_digit, kind)(rng)
        assert drawing.shape == (112, 112)
        assert drawing.max() > 200
        assert 0.001 < (drawing > 100).mean() < 0.6


def test_two_digits_have_the_ink_of_both(validation):
    rng = np.random.default_rng(0)
    for _ in range(30):
        lit = no_digit.two_digits(validation, rng) > 100
        assert np.ptp(np.flatnonzero(lit.any(axis=0))) > 40


def test_halves_have_ink_and_no_half_looks_like_a_digit(validation):
    rng = np.random.default_rng(0)
    for _ in range(30):
        lit = no_digit.half_digit(validation, rng) > 100
        assert lit.any()
    assert not {0, 1, 5, 6, 7, 9} & no_digit.HALVES.keys()


def test_letters_that_look_like_digits_are_left_out():
    assert not set("OoIlSsZz") & set(no_digit.LETTERS)
    assert set("AKMWXhkmwx") <= set(no_digit.LETTERS)


def test_equal_seeds_give_equal_pictures(validation):
    first, again, other = (no_digits(20, validation, seed) for seed in (1, 1, 2))
    assert first.shape == (20, 784)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture
def mixed(validation, device):
    pixels, labels = validation.tensors(device)
    grey = torch.full((5, 784), 0.5, device=device)
    return Altered(InMemory(pixels[:1000], labels[:1000], shuffle=1), [mixed_with(grey)], seed=1)


def test_some_digits_are_replaced_by_what_is_no_digit(mixed):
    assert len(mixed) == 1000
    plain = list(mixed.batches.epoch(1, 300))
    batches = list(mixed.epoch(1, 300))
    assert [len(labels) for _, labels in batches] == [300, 300, 300, 100]
    labels = torch.cat([labels for _, labels in batches])
    is_digit = labels != no_digit.NO_DIGIT
    assert 0.07 < 1 - is_digit.float().mean() < 0.13
    pixels = torch.cat([pixels for pixels, _ in batches])
    assert (pixels[~is_digit] == 0.5).all()
    assert torch.equal(pixels[is_digit], torch.cat([pixels for pixels, _ in plain])[is_digit])
    assert torch.equal(labels[is_digit], torch.cat([labels for _, labels in plain])[is_digit])


def test_mixed_batches_differ_between_epochs_and_resume_at_any_batch(mixed):
    first, again, second = ([labels.tolist() for _, labels in mixed.epoch(number, 100)] for number in (1, 1, 2))
    assert first == again
    assert first != second
    assert [labels.tolist() for _, labels in mixed.epoch(1, 100, start=7)] == first[7:]
