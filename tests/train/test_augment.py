"""Augmentation: each step does what its name says, and the same seed gives the same pictures."""

import queue

import pytest
import torch

from mnist_train import augment
from mnist_train.augment import augmented
from mnist_train.data.batches import Altered, InMemory

NAMES = (
    *("outline", "thicken", "thin", "deform", "coarsen", "blur", "tone", "strike", "veil", "invert", "speckle"),
    *("add_noise", "augment"),
)
STEPS = [getattr(augment, name) for name in NAMES]
RANDOM = [step for step in STEPS if step is not augment.outline]


@pytest.fixture
def pictures(validation, device):
    pixels, _ = validation.tensors(device)
    return pixels[:500].reshape(-1, 1, 28, 28)


@pytest.fixture
def generator(device):
    return torch.Generator(device).manual_seed(0)


def centre(pictures):
    """Return row and column of the centre of mass, `[N, 2]`, counted from 0."""
    pixels = torch.arange(28.0, device=pictures.device)
    mass = pictures.sum(dim=(1, 2, 3))[:, None]
    return torch.stack([(pictures.sum(dim=d) @ pixels).squeeze(1) for d in (3, 2)], dim=1) / mass


def extent(pictures):
    """Return the longest side of the ink's box in pixels, `[N]`."""
    lit = pictures > 0.1 * pictures.amax(dim=(2, 3), keepdim=True)
    return torch.stack([lit.any(dim=d).sum(dim=-1).squeeze(1) for d in (2, 3)]).amax(dim=0)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_returns_new_pictures_between_black_and_white(pictures, generator, step):
    before = pictures.clone()
    changed = step(pictures, generator)
    assert changed.shape == pictures.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed != pictures).any()
    assert torch.equal(pictures, before)


@pytest.mark.parametrize("step", RANDOM)
def test_equal_seeds_give_equal_pictures(pictures, device, step):
    first, again, other = (step(pictures, torch.Generator(device).manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("step", [augment.deform, augment.augment])
def test_a_blank_picture_gives_no_nan(device, generator, step):
    assert step(torch.zeros(3, 1, 28, 28, device=device), generator).isfinite().all()


def test_boxed_ink_has_mnists_size_and_centre(pictures):
    moved = torch.zeros_like(pictures)
    small = torch.nn.functional.interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
    moved[:, :, :14, 14:] = small
    boxed = augment.box(moved)
    assert (centre(boxed) - 14).abs().max() < 0.5
    assert (extent(boxed) - 20).abs().max() <= 2


def test_boxed_ink_stays_within_the_picture(device):
    flag = torch.zeros(1, 1, 28, 28, device=device)
    flag[0, 0, 2, 4:24] = flag[0, 0, 2:22, 4] = 1
    flag[0, 0, 2:5, 4:7] = 1
    for side in range(4):
        boxed = augment.box(flag.rot90(side, (2, 3)))
        assert boxed.sum().item() == pytest.approx(flag.sum().item(), rel=0.1)


def test_most_deformed_digits_have_about_mnists_size_and_place(pictures, generator):
    deformed = augment.deform(pictures, generator)
    off, size = (centre(deformed) - 14).abs().amax(dim=1), extent(deformed)
    assert 0.8 < ((off < 2) & (size >= 17) & (size <= 24)).float().mean() < 0.97
    assert off.max() < 5
    assert size.min() >= 10
    assert size.max() <= 26


def test_a_deformation_of_strength_0_only_enlarges_the_canvas(pictures, device, generator):
    canvas = augment.deformations(torch.zeros(2, 1, 1, device=device), generator)
    assert canvas[0, 0, 0, 0].item() == pytest.approx(-9 / 7 * 27 / 28)
    assert torch.equal(canvas[0, 0], canvas[1, 1].T)


def test_an_outline_is_hollow(device, generator):
    square = torch.zeros(1, 1, 28, 28, device=device)
    square[:, :, 10:18, 10:18] = 1
    outline = augment.outline(square, generator)
    assert (outline[:, :, 10:18, 10:18] == 0).all()
    assert outline.sum() == 10 * 10 - 8 * 8


def test_thicken_adds_ink_and_thin_removes_ink(pictures, generator):
    ink = pictures.sum(dim=(1, 2, 3))
    assert (augment.thicken(pictures, generator).sum(dim=(1, 2, 3)) > ink).all()
    assert (augment.thin(pictures, generator).sum(dim=(1, 2, 3)) < ink).all()


def test_blur_and_coarsen_soften_edges(pictures, generator):
    def steepest(pictures):
        return pictures.diff(dim=3).abs().amax(dim=(1, 2, 3))

    assert augment.blur(pictures, generator).diff(dim=3).square().sum() < pictures.diff(dim=3).square().sum()
    assert steepest(augment.coarsen(pictures, generator)).mean() < steepest(pictures).mean()


def test_a_strike_is_one_line_straight_or_zigzag_whole_or_dotted(device, generator):
    struck = augment.strike(torch.zeros(200, 1, 28, 28, device=device), generator).squeeze(1)
    width, lit = [], []
    for picture in struck:
        points = picture.nonzero().float()
        spread = torch.linalg.svdvals(points - points.mean(dim=0)) / len(points) ** 0.5
        width.append(spread[1].item())
        lit.append(len(points) / (1 + spread[0].item()))
    assert max(width) < 3
    assert sum(each < 0.8 for each in width) > 50
    assert sum(each > 1.1 for each in width) > 50
    assert max(lit) > 2 * min(lit)


def test_a_veil_is_even_or_uneven_and_keeps_the_ink_brighter_than_the_background(device, generator):
    square = torch.zeros(100, 1, 28, 28, device=device)
    square[:, :, 10:18, 10:18] = 1
    veiled = augment.veil(square, generator)
    assert (veiled[:, 0, 0, 0] > 0).all()
    ground = veiled[:, 0, :8].flatten(1)
    is_even = (ground.amax(dim=1) - ground.amin(dim=1)) < 1e-6
    assert 20 < is_even.sum() < 80
    assert (veiled[:, 0, 10:18, 10:18].mean(dim=(1, 2)) > veiled[:, 0, :8].mean(dim=(1, 2))).all()


def test_inverted_stripes_leave_the_middle_unchanged(pictures, generator):
    inverted = augment.invert(pictures, generator)
    assert torch.equal(inverted[:, :, 8:20, 8:20], pictures[:, :, 8:20, 8:20])
    changed = inverted != pictures
    assert torch.equal(inverted[changed], (1 - pictures)[changed])
    sides = torch.stack([changed[:, 0, 0].all(dim=1), changed[:, 0, -1].all(dim=1)])
    sides = torch.cat([sides, torch.stack([changed[:, 0, :, 0].all(dim=1), changed[:, 0, :, -1].all(dim=1)])])
    assert (sides.sum(dim=1) > 50).all()


def test_speckles_are_black_or_white_and_cover_up_to_a_fifth_of_the_pixels(pictures, generator):
    speckled = augment.speckle(pictures, generator)
    changed = speckled != pictures
    assert set(speckled[changed].unique().tolist()) == {0, 1}
    assert 0.1 < changed.float().mean(dim=(1, 2, 3)).max() < 0.2


def test_sometimes_changes_its_share_of_the_pictures(pictures, generator):
    changed = (augment.sometimes(0.25, augment.veil)(pictures, generator) != pictures).any(dim=(1, 2, 3))
    assert 0.15 < changed.float().mean() < 0.35


def test_augmented_batches_differ_between_epochs_and_resume_at_any_batch(validation, device):
    pixels, labels = validation.tensors(device)
    plain = InMemory(pixels[:250], labels[:250], shuffle=1)
    batches = Altered(plain, [augmented], seed=1)
    assert len(batches) == 250
    first, again, second = (list(batches.epoch(number, 100)) for number in (1, 1, 2))
    assert [len(x) for x, _ in first] == [100, 100, 50]
    assert [y.tolist() for _, y in first] == [y.tolist() for _, y in plain.epoch(1, 100)]
    assert all(torch.equal(x, x_again) for (x, _), (x_again, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], second[0][0])
    (resumed,) = batches.epoch(1, 100, start=2)
    assert torch.equal(resumed[0], first[2][0])
    other_rank = Altered(plain, [augmented], seed=1, rank=1)
    assert not torch.equal(next(other_rank.epoch(1, 100))[0], first[0][0])


def test_the_next_batch_is_altered_during_a_step(validation):
    altered = queue.Queue()

    def alter(pixels, labels, _):
        altered.put(None)
        return pixels, labels

    batches = Altered(InMemory(*validation.tensors()), [alter], seed=1).epoch(1, 100)
    next(batches)
    for _ in range(2):
        altered.get(timeout=60)


def test_an_error_of_an_alteration_ends_the_epoch(validation):
    def alter(*_):
        raise ValueError("a hand that nobody can draw")

    with pytest.raises(ValueError, match="nobody can draw"):
        next(Altered(InMemory(*validation.tensors()), [alter], seed=1).epoch(1, 100))


def test_an_empty_share_stays_empty(validation):
    pixels, labels = validation.tensors()
    share_of_one = Altered(InMemory(pixels[:1], labels[:1], rank=0, ranks=2), [augmented], seed=1)
    assert [len(pixels) for pixels, _ in share_of_one.epoch(1, 100)] == [0]
