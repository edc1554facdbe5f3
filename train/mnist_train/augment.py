"""Random variants of pictures: other hands, pens and scanners, in the box that the image recipe gives every digit.

Pictures are float32 `[N, 1, 28, 28]`, 0 black to 1 white, on any device. All randomness comes from a generator on the
same device. Every function returns new pictures.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mnist_runtime.digits import HEIGHT, PIXELS, WIDTH
from mnist_train.data.batches import Batches, Data

BOX = 20
"""Longest side of the ink in pixels, as in MNIST."""
CENTRE = 14.5
"""Distance of the ink's centre of mass from the left and upper border in pixels, as in MNIST."""

_CANVAS = 36  # side in pixels of the canvas on which deformed ink is measured: it is larger than MNIST's box then
_TINY = 1e-6  # brightness of a blank picture, which has no centre
_INK = 0.1  # share of the brightest pixel; the box is drawn around what is brighter

Step = Callable[[Tensor, Generator], Tensor]
"""A random change of pictures."""


@dataclass(frozen=True)
class Augmented:
    """Batches whose pictures are varied anew in every epoch.

    The variation depends on seed, epoch, batch and rank alone, so a resumed training sees the pictures of an unbroken
    one.
    """

    batches: Batches
    """Batches to vary."""
    seed: int
    """Seed of the variation."""
    rank: int = 0
    """Rank of this process."""

    def __len__(self) -> int:
        """Return the number of digits, of all ranks."""
        return len(self.batches)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """Yield the batches of an epoch from batch `start` on, varied."""
        for index, (pixels, labels) in enumerate(self.batches.epoch(number, batch_size, start), start):
            state = np.random.SeedSequence((self.seed, number, index, self.rank)).generate_state(1, np.uint64)
            generator = Generator(pixels.device).manual_seed(int(state[0]))
            pictures = pixels.reshape(-1, 1, HEIGHT, WIDTH)
            yield (augment(pictures, generator).reshape(-1, PIXELS) if len(pictures) else pixels), labels


def augment(pictures: Tensor, generator: Generator) -> Tensor:
    """Vary stroke, shape, resolution, sharpness, tone and noise: the order of pen, hand and scanner."""
    for step in (
        sometimes(0.25, thicken),
        sometimes(0.15, thin),
        sometimes(0.85, deform),
        sometimes(1 / 6, coarsen),
        sometimes(0.1, blur),
        tone,
        sometimes(0.03, strike),
        sometimes(0.04, veil),
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


def deform(pictures: Tensor, generator: Generator) -> Tensor:
    """Rotate, shear, stretch and bend, by a strength of its own per picture, then set box and centre of mass.

    The ink's new box is measured on a trial. The result is sampled from `pictures` in one go, so it is blurred once.
    """
    count = len(pictures)
    strength = _uniform(generator, 0, 1, count, 1, 1)
    maps = torch.eye(2, device=pictures.device).lerp(linear_maps(count, generator), strength) * (_CANVAS / WIDTH)
    maps = torch.cat([maps, maps.new_zeros(count, 2, 1)], dim=2)
    canvas = F.affine_grid(maps, [count, 1, _CANVAS, _CANVAS], align_corners=False)
    canvas = canvas + elastic_fields(count, generator) * strength.unsqueeze(3)
    maps = placements(_sample(pictures, canvas), generator)
    grid = F.affine_grid(maps, [count, 1, HEIGHT, WIDTH], align_corners=False)
    return _sample(pictures, _sample(canvas.movedim(3, 1), grid, "border").movedim(1, 3))


def box(pictures: Tensor) -> Tensor:
    """Set box and centre of mass as MNIST and the image recipe do, and change nothing else."""
    grid = F.affine_grid(placements(pictures), list(pictures.shape), align_corners=False)
    return _sample(pictures, grid)


def linear_maps(count: int, generator: Generator) -> Tensor:
    """Draw rotation up to 15 degrees, shear up to 0.3 and stretch up to 1.2 : 0.8, as matrices `[count, 2, 2]`."""
    angle = _uniform(generator, -math.radians(15), math.radians(15), count)
    shear = _uniform(generator, -0.3, 0.3, count)
    x, y = _uniform(generator, 0.8, 1.2, count), _uniform(generator, 0.8, 1.2, count)
    cos, sin = angle.cos(), angle.sin()
    rows = [cos / x, (shear * cos - sin) / x, sin / y, (shear * sin + cos) / y]
    return torch.stack(rows, dim=1).reshape(count, 2, 2)


def elastic_fields(count: int, generator: Generator) -> Tensor:
    """Draw smooth displacements `[count, canvas, canvas, 2]`, up to 0.1 of half a picture's width.

    Bicubic interpolation of 7x7 random vectors (after Simard, Steinkraus and Platt 2003), as two matrix products,
    because torch's own interpolation takes four times as long.
    """
    vectors = _uniform(generator, -0.1, 0.1, count, 2, 7, 7)
    identity = torch.eye(7, device=generator.device)[None, None]
    basis = F.interpolate(identity, (_CANVAS, 7), mode="bicubic", align_corners=True).squeeze()
    return (basis @ vectors @ basis.T).movedim(1, 3)


def placements(pictures: Tensor, generator: Generator | None = None) -> Tensor:
    """Measure where the ink of square pictures lies, and return affine maps `[N, 2, 3]` from MNIST's frame to it.

    Sampled through its map, the ink's longest side is 20 pixels and its centre of mass lies at pixel (14, 14), unless
    the ink would leave the frame. With a generator, the size varies by 8 % and the centre by 1 pixel.
    """
    side, ink = pictures.shape[-1], pictures.squeeze(1)
    lit = ink > _INK * ink.amax(dim=(1, 2), keepdim=True)
    pixels = torch.arange(side, dtype=torch.float32, device=pictures.device)
    is_lit = torch.stack([lit.any(dim=1), lit.any(dim=2)], dim=1)  # [N, 2, side], columns before rows as in the maps
    mass = torch.stack([ink.sum(dim=1), ink.sum(dim=2)], dim=1)
    first = torch.where(is_lit, pixels, side).amin(dim=2)
    last = torch.where(is_lit, pixels + 1, 0).amax(dim=2)
    centre = (mass @ (pixels + 0.5)) / mass.sum(dim=2).clamp_min(_TINY)

    scale = (last - first).amax(dim=1, keepdim=True).clamp_min(1) / BOX
    target = torch.full_like(centre, CENTRE)
    if generator is not None:
        scale = scale * _uniform(generator, 0.92, 1.08, len(ink), 1)
        target = target + _uniform(generator, -1, 1, len(ink), 2)
    target = target.minimum(WIDTH - (last - centre) / scale).maximum((centre - first) / scale)
    offset = (centre + (WIDTH / 2 - target) * scale) * (2 / side) - 1
    return torch.cat([torch.diag_embed((scale * (WIDTH / side)).expand(-1, 2)), offset.unsqueeze(2)], dim=2)


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
    """Draw one straight line across each picture, up to 2 pixels wide, as a ruled sheet or a slip of the pen does."""
    angle, distance = _uniform(generator, 0, math.pi, len(pictures)), _uniform(generator, -12, 12, len(pictures))
    normals = torch.stack([angle.cos(), angle.sin(), -distance], dim=1)
    pixels = torch.arange(HEIGHT, device=pictures.device) - (HEIGHT - 1) / 2
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    away = (normals @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)).abs().reshape(pictures.shape)
    width, brightness = (_uniform(generator, 0.3, 1, len(pictures), 1, 1, 1) for _ in range(2))
    return pictures.maximum((width + 0.5 - away).clamp(0, 1) * brightness)


def veil(pictures: Tensor, generator: Generator) -> Tensor:
    """Brighten the background by up to 0.4, evenly, and the ink by what is left to white."""
    return pictures.lerp(torch.ones_like(pictures), _uniform(generator, 0, 0.4, len(pictures), 1, 1, 1))


def add_noise(pictures: Tensor, generator: Generator) -> Tensor:
    """Add normal noise of a deviation up to 0.08."""
    noise = torch.randn(pictures.shape, generator=generator, device=pictures.device)
    return (pictures + noise * _uniform(generator, 0, 0.08, len(pictures), 1, 1, 1)).clamp_(0, 1)


def _largest(pictures: Tensor) -> Tensor:
    return F.max_pool2d(pictures, 3, stride=1, padding=1)


def _sample(pictures: Tensor, grid: Tensor, padding: str = "zeros") -> Tensor:
    return F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low
