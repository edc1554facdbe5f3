"""Random variants of pictures: other hands, pens and scanners, in the box that the image recipe gives every digit.

Pictures are float32 `[N, 1, 28, 28]`, 0 black to 1 white, on any device. All randomness comes from a generator on the
same device. Every function returns new pictures.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mnist_runtime.digits import HEIGHT, PIXELS, WIDTH
from mnist_train.data.batches import Data

BOX = 20
"""Longest side of the ink in pixels, as in MNIST."""
CENTRE = 14.5
"""Distance of the ink's centre of mass from the left and upper border in pixels, as in MNIST."""

_CANVAS = 9 / 7  # sides of a picture on the canvas where deformed ink is measured: ink may leave MNIST's box there
_CARELESS = 0.1  # share of the pictures that are not where the recipe would put them
_KNOTS = 7  # of an elastic field, along each side
_TINY = 1e-6  # least sum of a picture's pixels, because a blank one has no centre of mass
_INK = 0.1  # share of the brightest pixel; brighter pixels are ink

Step = Callable[[Tensor, Generator], Tensor]
"""A random change of pictures."""


def augmented(pixels: Tensor, labels: Tensor, seed: np.random.SeedSequence) -> Data:
    """Return a batch with its pictures augmented, for `mnist_train.data.batches.Altered`."""
    if not len(pixels):
        return pixels, labels
    generator = Generator(pixels.device).manual_seed(int(seed.generate_state(1, np.uint64)[0]))
    return augment(pixels.reshape(-1, 1, HEIGHT, WIDTH), generator).reshape(-1, PIXELS), labels


def augment(pictures: Tensor, generator: Generator) -> Tensor:
    """Vary stroke, shape, resolution, sharpness, tone and noise, in the order of pen, hand, paper and scanner."""
    for step in (
        sometimes(0.02, outline),
        sometimes(0.25, thicken),
        sometimes(0.15, thin),
        sometimes(0.85, deform),
        sometimes(0.2, coarsen),
        sometimes(0.1, blur),
        tone,
        sometimes(0.03, strike),
        sometimes(0.04, veil),
        sometimes(0.02, invert),
        sometimes(0.02, speckle),
        sometimes(0.3, add_noise),
    ):
        pictures = step(pictures, generator)
    return pictures


def sometimes(share: float, step: Step) -> Step:
    """Return a step that applies `step` to each picture with probability `share`."""

    def apply(pictures: Tensor, generator: Generator) -> Tensor:
        chosen = (_uniform(generator, 0, 1, len(pictures)) < share).nonzero().squeeze(1)
        return pictures.index_copy(0, chosen, step(pictures[chosen], generator)) if len(chosen) else pictures

    return apply


def thicken(pictures: Tensor, generator: Generator) -> Tensor:
    """Widen strokes by up to a pixel on each side, towards the maximum of 3x3 pixels."""
    return pictures.lerp(_largest(pictures), _uniform(generator, 0, 1, len(pictures), 1, 1, 1))


def thin(pictures: Tensor, generator: Generator) -> Tensor:
    """Narrow strokes by up to a pixel on each side, towards the minimum of 3x3 pixels."""
    return pictures.lerp(-_largest(-pictures), _uniform(generator, 0, 1, len(pictures), 1, 1, 1))


def outline(pictures: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001  # a step
    """Keep the outlines of strokes only, as in hollow letters: the difference of the 3x3 maximum and the picture."""
    return _largest(pictures) - pictures


def deform(pictures: Tensor, generator: Generator) -> Tensor:
    """Rotate, shear, stretch and bend each picture by a random strength, then set the ink's box and centre of mass.

    The new box is measured on a trial. The result is sampled from `pictures` once, because each sampling blurs.
    """
    strength = _uniform(generator, 0, 1, len(pictures), 1, 1)
    canvas = deformations(strength, generator)
    frame = placements(_sample(pictures, canvas.movedim(1, 3)), generator)
    return _sample(pictures, _sample(canvas, frame, "border").movedim(1, 3))


def box(pictures: Tensor) -> Tensor:
    """Set the ink's box and centre of mass as MNIST and the image recipe do, and change nothing else."""
    return _sample(pictures, placements(pictures))


def deformations(strength: Tensor, generator: Generator) -> Tensor:
    """Draw the point of its picture that each point of a canvas shows, `[N, 2, 28, 28]`; x and y are -1 to 1.

    A deformation is a linear map plus a smooth field, the bicubic interpolation of 7x7 random vectors (after Simard,
    Steinkraus and Platt 2003), which are up to 0.1 of half a picture's width. Both are linear in their parameters, so
    one matrix product makes the deformations of all pictures.

    Args:
        strength: Share `[N, 1, 1]` of each random deformation that is applied; 0 deforms nothing.
        generator: Source of the randomness.
    """
    maps = torch.eye(2, device=strength.device).lerp(linear_maps(len(strength), generator), strength)
    vectors = _uniform(generator, -0.1, 0.1, len(strength), 2, _KNOTS**2) * strength
    parameters = torch.cat([maps * _CANVAS, vectors], dim=2).flatten(0, 1)
    return (parameters @ _basis(strength.device)).reshape(-1, 2, HEIGHT, WIDTH)


@cache
def _basis(device: torch.device) -> Tensor:
    """Return the field `[2 + 49, 784]` per unit of each parameter: x, y and a bump around each of 7x7 knots."""
    y, x = torch.meshgrid(_centres(HEIGHT, device), _centres(WIDTH, device), indexing="ij")
    knots = torch.eye(_KNOTS**2, device=device).reshape(-1, 1, _KNOTS, _KNOTS)
    bumps = F.interpolate(knots, (HEIGHT, WIDTH), mode="bicubic", align_corners=True)
    return torch.cat([torch.stack([x, y]).flatten(1), bumps.flatten(1)])


def linear_maps(count: int, generator: Generator) -> Tensor:
    """Draw rotation up to 15 degrees, shear up to 0.3 and stretch up to 1.2 : 0.8, as matrices `[count, 2, 2]`."""
    angle = _uniform(generator, -math.radians(15), math.radians(15), count)
    shear = _uniform(generator, -0.3, 0.3, count)
    x, y = _uniform(generator, 0.8, 1.2, count), _uniform(generator, 0.8, 1.2, count)
    cos, sin = angle.cos(), angle.sin()
    rows = [cos / x, (shear * cos - sin) / x, sin / y, (shear * sin + cos) / y]
    return torch.stack(rows, dim=1).reshape(count, 2, 2)


def placements(pictures: Tensor, generator: Generator | None = None) -> Tensor:
    """Measure the ink's place in square pictures, and return sampling points `[N, 28, 28, 2]` around it.

    Sampled there, the ink's longest side is 20 pixels and its centre of mass lies at pixel (14, 14), unless the ink
    would leave the frame. With a generator, the size varies by 8 % and the centre by 1 pixel; one picture in ten is
    placed with less care, as small as two thirds and as much as 3.5 pixels off.
    """
    side, ink = pictures.shape[-1], pictures.squeeze(1)
    brightest = torch.stack([ink.amax(dim=1), ink.amax(dim=2)], dim=1)  # [N, 2, side]: of columns, of rows
    mass = torch.stack([ink.sum(dim=1), ink.sum(dim=2)], dim=1)
    is_lit = brightest > _INK * brightest.amax(dim=2, keepdim=True)
    pixels = torch.arange(side, dtype=torch.float32, device=pictures.device)
    first = torch.where(is_lit, pixels, side).amin(dim=2)
    last = torch.where(is_lit, pixels + 1, 0).amax(dim=2)
    centre = (mass @ (pixels + 0.5)) / mass.sum(dim=2).clamp_min(_TINY)

    scale = (last - first).amax(dim=1, keepdim=True).clamp_min(1) / BOX
    target = torch.full_like(centre, CENTRE)
    if generator is not None:
        is_careless = _uniform(generator, 0, 1, len(ink), 1) < _CARELESS
        size = torch.where(is_careless, _uniform(generator, 1, 1.5, len(ink), 1), 1)
        scale = scale * size * _uniform(generator, 0.92, 1.08, len(ink), 1)
        target = target + _uniform(generator, -1, 1, len(ink), 2) * torch.where(is_careless, 3.5, 1)
    target = target.minimum(WIDTH - (last - centre) / scale).maximum((centre - first) / scale)
    offset = (centre + (WIDTH / 2 - target) * scale) * (2 / side) - 1
    points = offset.unsqueeze(2) + (scale * (WIDTH / side)).unsqueeze(2) * _centres(WIDTH, pictures.device)
    x, y = points.unbind(dim=1)
    return torch.stack([x[:, None, :].expand(-1, HEIGHT, -1), y[:, :, None].expand(-1, -1, WIDTH)], dim=3)


def coarsen(pictures: Tensor, generator: Generator) -> Tensor:
    """Bring pictures to 10 to 20 pixels a side and back, all of a call to the same size."""
    side = int(torch.randint(10, 21, (), generator=generator, device=pictures.device))
    small = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, (HEIGHT, WIDTH), mode="bilinear")


def blur(pictures: Tensor, generator: Generator) -> Tensor:
    """Blend in a Gaussian blur of 1 pixel (sigma) by a random share."""
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=pictures.device) / 16
    blurred = F.conv2d(pictures, weights.outer(weights)[None, None], padding=2)
    return pictures.lerp(blurred, _uniform(generator, 0, 1, len(pictures), 1, 1, 1))


def tone(pictures: Tensor, generator: Generator) -> Tensor:
    """Change gamma, 0.6 to 1.6, and contrast, 0.7 to 1.1; what becomes brighter than white is white."""
    gamma = _uniform(generator, 0.6, 1.6, len(pictures), 1, 1, 1)
    contrast = _uniform(generator, 0.7, 1.1, len(pictures), 1, 1, 1)
    return pictures.pow(gamma).mul_(contrast).clamp_(0, 1)


def strike(pictures: Tensor, generator: Generator) -> Tensor:
    """Draw one line across each picture, up to 2 pixels wide: straight or zigzag, whole or dotted."""
    across, along = _axes(pictures, _uniform(generator, 0, math.pi, len(pictures), 1, 1, 1))
    zigzag, dots = (_uniform(generator, 0, 1, len(pictures), 1, 1, 1) for _ in range(2))
    wave = (along / _uniform(generator, 6, 12, len(pictures), 1, 1, 1)) % 1
    across = across + _uniform(generator, -12, 12, len(pictures), 1, 1, 1)
    across = across + (zigzag < 0.5) * ((wave - 0.5).abs() * 8 - 2)
    width, brightness = (_uniform(generator, 0.3, 1, len(pictures), 1, 1, 1) for _ in range(2))
    line = (width + 0.5 - across.abs()).clamp(0, 1) * brightness
    return pictures.maximum(line * ((dots < 0.7) | (along % 4 < 2)))


def veil(pictures: Tensor, generator: Generator) -> Tensor:
    """Brighten pictures by up to 0.6, evenly as light or unevenly as fog does, and reduce the ink's contrast."""
    fog = torch.zeros_like(pictures)
    for side in (3, 5, 9, 15):  # the octaves become weaker
        octave = _uniform(generator, 0, 2 / side, len(pictures), 1, side, side)
        fog = fog + F.interpolate(octave, (HEIGHT, WIDTH), mode="bilinear")
    even = torch.ones_like(pictures)
    amount, evenness, cost = (_uniform(generator, 0, 1, len(pictures), 1, 1, 1) for _ in range(3))
    return (pictures * (1 - 0.7 * amount * cost) + 0.6 * amount * fog.lerp(even, evenness.round())).clamp_(0, 1)


def invert(pictures: Tensor, generator: Generator) -> Tensor:
    """Invert a stripe along one or both sides of the picture, 6 pixels or more from its middle."""
    across, _ = _axes(pictures, _uniform(generator, 0, 1, len(pictures), 1, 1, 1).round() * (math.pi / 2))
    first, second = (_uniform(generator, 6, 16, len(pictures), 1, 1, 1) for _ in range(2))
    return torch.where((across > first) | (across < -second), 1 - pictures, pictures)


def speckle(pictures: Tensor, generator: Generator) -> Tensor:
    """Make up to a fifth of the pixels black or white."""
    chosen = _uniform(generator, 0, 1, *pictures.shape) < _uniform(generator, 0, 0.2, len(pictures), 1, 1, 1)
    return torch.where(chosen, _uniform(generator, 0, 1, *pictures.shape).round(), pictures)


def add_noise(pictures: Tensor, generator: Generator) -> Tensor:
    """Add normal noise of a deviation up to 0.08."""
    noise = torch.randn(pictures.shape, generator=generator, device=pictures.device)
    return (pictures + noise * _uniform(generator, 0, 0.08, len(pictures), 1, 1, 1)).clamp_(0, 1)


def _axes(pictures: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels' coordinates relative to the middle, across and along a direction, `[N, 1, 28, 28]` each."""
    x = _centres(WIDTH, pictures.device) * (WIDTH / 2)
    y = _centres(HEIGHT, pictures.device)[:, None] * (HEIGHT / 2)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _largest(pictures: Tensor) -> Tensor:
    return F.max_pool2d(pictures, 3, stride=1, padding=1)


def _sample(pictures: Tensor, grid: Tensor, padding: str = "zeros") -> Tensor:
    return F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)


def _centres(count: int, device: torch.device) -> Tensor:
    """Return where the centres of `count` pixels lie between -1 and 1."""
    return (torch.arange(count, device=device) + 0.5) * (2 / count) - 1


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low
