"""Paper under uneven light: its brightness fitted by a smooth surface, and the ink that stands out from it."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
"""`[height, width]`."""

FAINTEST = 24.0
"""Grey levels between ink and ground."""
_CLEAREST = 6.0  # deviations of the noise that ink must differ from the ground
_EDGE = 0.1  # of the ink's darkness: where ink begins


def ink_on_paper(grey: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the ink, 0 to 255 for a solid stroke, darker or lighter than its paper; None where nothing stands out."""
    depth, noise = _depth(grey.astype(np.float64))
    highest = float(depth.max())
    solid = float(np.percentile(depth[depth >= highest / 2], 75)) if highest else 0.0
    if solid < max(FAINTEST, _CLEAREST * noise):
        return None
    ink: NDArray[np.uint8] = np.rint(255 * np.minimum(depth / solid, 1)).astype(np.uint8)
    ink[depth <= max(_EDGE * solid, 4 * noise)] = 0
    return ink


def _depth(grey: Floats) -> tuple[Floats, float]:
    """Return how far each pixel stands out from the paper on the ink's side, and the paper's noise (1 sigma).

    Dark ink takes away a share of the light that falls there, so its depth is measured against the paper's brightness.
    """
    paper, noise = _paper(grey)
    above, below = np.maximum(grey - paper, 0), np.maximum(paper - grey, 0)
    if (above**2).sum() > (below**2).sum():
        depth = above
    else:
        light = np.maximum(paper, FAINTEST)
        depth, noise = 255 * below / light, noise * 255 / float(np.median(light))
    return np.where(depth > 3 * noise, depth, 0), noise


def _paper(grey: Floats) -> tuple[Floats, float]:
    """Return the paper's brightness, a quadratic surface, and the noise on it (1 sigma).

    Light falls off smoothly and ink does not, so a surface of six coefficients follows the light and not the ink. The
    surface is fitted to the border, then to all pixels near the fit; a sample of rows and columns is enough. Ink that
    touches the border is left out by least trimmed squares: fit, keep the nearest half, and repeat (Rousseeuw and Van
    Driessen 2006, "Computing LTS Regression for Large Data Sets"). Every side keeps its nearest quarter, because the
    long sides of a form field alone do not determine a surface.
    """
    stride = max(1, round((grey.size / 4096) ** 0.5))
    sample = grey[::stride, ::stride]
    terms, levels = _quadratic_terms(*sample.shape), sample.ravel()
    sides = _sides(sample.shape)
    border = np.logical_or.reduce(sides)
    near = border
    for _ in range(10):
        rest = np.abs(levels - terms @ _fit(terms[near], levels[near]))
        near = border & (rest <= np.median(rest[border]))
        for side in sides:
            near |= side & (rest <= np.percentile(rest[side], 25))
    for _ in range(8):
        coefficients = _fit(terms[near], levels[near])
        rest = np.abs(levels - terms @ coefficients)
        noise = 1.4826 * float(np.median(rest[near]))  # of a normal distribution, sigma = 1.4826 MAD
        near = rest <= max(3 * noise, 3.0)
        if near.sum() < terms.shape[1]:
            break
    return (_quadratic_terms(*grey.shape) @ coefficients).reshape(grey.shape), noise


def _fit(terms: Floats, levels: Floats) -> Floats:
    """Solve the normal equations, well conditioned on [-1, 1], for as many terms as the pixels determine."""
    coefficients = np.zeros(6)
    for count in (6, 3, 1):  # quadratic, linear, constant
        squares = terms[:, :count].T @ terms[:, :count]
        if count == 1 or np.linalg.cond(squares) < 1e6:
            coefficients[:count] = np.linalg.solve(squares, terms[:, :count].T @ levels)
            break
    return coefficients


def _sides(shape: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    """Return the four sides of a picture, each a twelfth of its shorter side deep, at least a pixel, flattened."""
    margin = max(1, min(shape) // 12)
    sides = []
    for where in (np.s_[:margin], np.s_[-margin:], np.s_[:, :margin], np.s_[:, -margin:]):
        side = np.zeros(shape, dtype=bool)
        side[where] = True
        sides.append(side.ravel())
    return sides


def _quadratic_terms(height: int, width: int) -> Floats:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
