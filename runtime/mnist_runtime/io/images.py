"""Photographs, scans and drawings of one digit: decoded by Pillow (extra [image]), and their ink found."""

import io
import itertools
import warnings

import numpy as np
from numpy.typing import NDArray

from mnist_runtime import ink as mnist
from mnist_runtime.digits import Intensities
from mnist_runtime.errors import DigitError, ExtraMissingError

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ExtraMissingError('images need Pillow; install it with pip install "mnist-runtime[image]"') from error

PIXEL_LIMIT = 50_000_000
"""Pixels of an image; a telephone's camera takes 12 to 50 million, a decompression bomb claims more."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_WORKING_SIDE = 256  # pixels; larger images are reduced to this before the ink is sought
_TILE = 64  # pixels of a reduced image's side that are made at a time
_SMALLEST_SIDE = 8  # pixels of an image or of its ink: with fewer there is nothing to recognise
_FAINTEST = 24.0  # grey levels between ink and background
_CLEAREST = 6.0  # the ink must rise this many deviations of the noise above the background
_FULLEST = 0.6  # of the image: a digit leaves more than the rest of it empty
_EDGE = 0.1  # of the ink's darkness: where the ink's box begins
_SOLID = 0.4  # of the ink's darkness: what a stroke reaches somewhere, and specks of paper and noise do not

Grey = NDArray[np.float64]
"""Luminance 0-255, `[height, width]`."""


def read_image(data: bytes, name: str) -> Intensities:
    """Read a PNG, JPEG, BMP or WebP of one digit, in any size and colours, as uint8 `[784]`; `name` is for the errors.

    Raises:
        DigitError: it is no such image, too large, or no digit stands out from its background.
    """
    return normalise(_decode(data, name), name)


def normalise(grey: Grey, name: str) -> Intensities:
    """Find the ink in a grey image, whichever of ink and background is the darker, and give it MNIST's form.

    Raises:
        DigitError: nothing stands out, or too much.
    """
    ink, noise = _ink(grey)
    peak = _peak(ink)
    if peak < max(_FAINTEST, _CLEAREST * noise):
        raise DigitError(
            f"{name} shows no digit: nothing stands out from its background; write bolder, light it evenly, or leave "
            "some background around it"
        )
    lit = _hanging_together(ink > max(_EDGE * peak, 4 * noise), ink > _SOLID * peak)
    if lit.mean() > _FULLEST:
        raise DigitError(
            f"{name} shows no digit: more than {_FULLEST:.0%} of it is ink; leave some background around it"
        )
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    if max(ink[box].shape) < _SMALLEST_SIDE:
        raise DigitError(
            f"{name} shows no digit: its ink spans {max(ink[box].shape)} pixels; give a larger picture of it"
        )
    solid = np.where(lit, 255 * np.minimum(ink / peak, 1), 0)[box]
    digit: Intensities = mnist.normalise(np.rint(solid).astype(np.uint8)[None])[0]
    return digit


def _decode(data: bytes, name: str) -> Grey:
    """Decode to luminance, upright, at most `_WORKING_SIDE` pixels a side, with transparency resolved."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is amiss shows as an error or not at all
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image, name)
                image.draft(None, (2 * _WORKING_SIDE, 2 * _WORKING_SIDE))  # a JPEG's blocks are unpacked no larger
                image.load()
                return _luminance(image)
    except UnidentifiedImageError as error:
        raise DigitError(f"{name} is no PNG, JPEG, BMP or WebP image, nor a .npy or .npz; give one of those") from error
    except Image.DecompressionBombError as error:
        raise DigitError(f"{name} claims more than {PIXEL_LIMIT:,} pixels; crop it to the digit") from error
    except DigitError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing ran into
        raise DigitError(
            f"{name} is a damaged image ({error or type(error).__name__}); copy or save it again"
        ) from error


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > PIXEL_LIMIT:
        raise DigitError(
            f"{name} has {image.width}x{image.height} pixels, more than {PIXEL_LIMIT:,}; crop it to the digit"
        )
    if min(image.size) < _SMALLEST_SIDE:
        raise DigitError(f"{name} has {image.width}x{image.height} pixels, too few for a digit; give a larger picture")


def _luminance(image: Image.Image) -> Grey:
    image = _on_paper(ImageOps.exif_transpose(_reduced(image))).convert("L")
    image.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def _reduced(image: Image.Image) -> Image.Image:
    """RGBA of at most 4 times the working side, made tile by tile: a whole one of the largest image takes 200 MB."""
    factor = max(1, max(image.size) // (2 * _WORKING_SIDE))
    width, height = (-(-side // factor) for side in image.size)
    reduced = Image.new("RGBA", (width, height))
    for left, top in itertools.product(range(0, width, _TILE), range(0, height, _TILE)):
        right, bottom = min((left + _TILE) * factor, image.width), min((top + _TILE) * factor, image.height)
        tile = image.crop((left * factor, top * factor, right, bottom))
        if tile.mode.startswith("I;16"):
            tile = Image.fromarray((np.asarray(tile) >> 8).astype(np.uint8))
        reduced.paste(tile.convert("RGBA").reduce(factor), (left, top))
    reduced.info = image.info  # EXIF's orientation
    return reduced


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay a transparent image on whichever of white and black its opaque parts stand out from."""
    grey, alpha = (np.asarray(image.convert("L"), np.float64), np.asarray(image.getchannel("A"), np.float64))
    dark = (grey * alpha).sum() < 127.5 * alpha.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if dark else "black"), image)


def _ink(grey: Grey) -> tuple[Grey, float]:
    """How far each pixel stands out from the background on the ink's side, and the background's noise (1 sigma).

    Dark ink takes away a share of the light that falls there, so its depth is measured against the background's own.
    """
    background, noise = _background(grey)
    above, below = np.maximum(grey - background, 0), np.maximum(background - grey, 0)
    if (above**2).sum() > (below**2).sum():
        ink = above
    else:
        light = np.maximum(background, _FAINTEST)
        ink, noise = 255 * below / light, noise * 255 / float(np.median(light))
    return np.where(ink > 3 * noise, ink, 0), noise


def _background(grey: Grey) -> tuple[Grey, float]:
    """The background, a quadratic surface, and the noise on it (1 sigma): fit to the border, then to all near the fit.

    Light falls off smoothly and ink does not, so a surface of six coefficients follows the one and not the other. Ink
    that touches the border is left out by least trimmed squares: fit, keep the half that is nearest, and so on
    (Rousseeuw and Van Driessen 2006, "Computing LTS Regression for Large Data Sets"). It is fit to every few pixels
    only, which is as good.
    """
    stride = max(1, max(grey.shape) // 64)
    sample = grey[::stride, ::stride]
    terms, levels = _quadratic_terms(*sample.shape), sample.ravel()
    border = near = _border(sample.shape)
    for _ in range(10):
        rest = np.abs(levels - terms @ _fit(terms[near], levels[near]))
        near = border & (rest <= np.median(rest[border]))
    for _ in range(8):
        coefficients = _fit(terms[near], levels[near])
        rest = np.abs(levels - terms @ coefficients)
        noise = 1.4826 * float(np.median(rest[near]))  # of a normal distribution, sigma = 1.4826 MAD
        near = rest <= max(3 * noise, 3.0)
        if near.sum() < terms.shape[1]:
            break
    return (_quadratic_terms(*grey.shape) @ coefficients).reshape(grey.shape), noise


def _fit(terms: Grey, levels: Grey) -> Grey:
    """Least squares by the normal equations, which six terms on [-1, 1] keep well conditioned, and 6x6."""
    return np.linalg.lstsq(terms.T @ terms, terms.T @ levels, rcond=None)[0].astype(np.float64, copy=False)


def _border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The outermost twelfth of a picture, at least a pixel, flattened."""
    margin = max(1, min(shape) // 12)
    border = np.ones(shape, dtype=bool)
    border[margin:-margin, margin:-margin] = False
    return border.ravel()


def _quadratic_terms(height: int, width: int) -> Grey:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)


def _peak(ink: Grey) -> float:
    """The level of solid ink: high among the dark half, so that one bright speck does not set it."""
    highest = ink.max()
    return float(np.percentile(ink[ink >= highest / 2], 75)) if highest else 0.0


def _hanging_together(faint: NDArray[np.bool_], solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The faint pixels that touch a solid one, or one that does, and so on: the edges of strokes, but no specks."""
    found = faint & solid
    count = 0
    while count < (count := int(np.count_nonzero(found))):
        found[1:] |= found[:-1]
        found[:-1] |= found[1:]
        found[:, 1:] |= found[:, :-1]
        found[:, :-1] |= found[:, 1:]
        found &= faint
    return found
