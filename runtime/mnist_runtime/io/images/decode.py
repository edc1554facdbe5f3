"""Image files decoded by Pillow (extra [image]) to upright uint8 greys, in little more memory than Pillow needs."""

import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.errors import DigitError, ExtraMissingError, first_line

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ExtraMissingError("images need Pillow, which is not installed; run: pip install Pillow") from error

FILE_LIMIT = 2**28
"""Bytes of an image file."""
PIXEL_LIMIT = 50_000_000
"""Pixels of an image; a telephone's camera takes 12 to 50 million, a decompression bomb claims more."""
SMALLEST_SIDE = 8
"""Pixels of an image's side, or of its ink's; with fewer there is nothing to recognise."""

_READ_LIMIT = 100_000  # reads of a file; Pillow reads each marker, chunk and padding byte by itself, in microseconds
_SCAN_LIMIT, _SCANNED_LIMIT = 100, 20 * PIXEL_LIMIT  # scans of a JPEG, and their pixels; encoders write some ten scans
_SEGMENT_LIMIT = 10_000  # segments of a JPEG
_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # in a scan, 0 and D0-D7 are data (T.81, B.1.1.5)

_WORKING_SIDE = 512  # pixels; larger images are reduced by a whole factor
_TILE = 64  # pixels of a tile's side, once reduced
_DIRECT = frozenset(["L", "RGB"])  # modes that Pillow reduces without a copy of the whole image

Image.init()
_FORMATS = tuple(name for name in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "AVIF") if name in Image.OPEN)

Grey = NDArray[np.uint8]
"""Luminance 0-255, `[height, width]`."""


def decode(source: bytes | Image.Image, name: str) -> Grey:
    """Decode an image, the first of several in a file, to at most 512 pixels a side; `name` is for the errors.

    Raises:
        DigitError: `source` is no image, or is damaged, too large or too small.
    """
    if not isinstance(source, (bytes, Image.Image)):
        raise DigitError(f"{name} is of type {type(source).__name__}; give an image file, its bytes or a Pillow image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a flaw either raises an error or does not matter
            if isinstance(source, Image.Image):  # the caller's: neither closed nor drafted
                _check_size(source, name)
                return _luminance(source)
            with Image.open(_Frugal(source), formats=_FORMATS) as image:
                _check_size(image, name)
                if source.startswith(_JPEG):
                    _check_scans(source, image.width * image.height, name)
                image.draft(None, (_WORKING_SIDE, _WORKING_SIDE))  # a JPEG's blocks are unpacked no larger
                image.load()
                return _luminance(image)
    except UnidentifiedImageError as error:
        raise DigitError(f"{name} is not an image that Pillow reads; save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise DigitError(f"{name} claims more than {PIXEL_LIMIT:,} pixels; crop it to the digit") from error
    except (DigitError, MemoryError):
        raise
    except Exception as error:  # damage makes Pillow's decoders raise anything
        raise DigitError(f"{name} is a damaged image ({first_line(error)}); copy or save it again") from error


class _Frugal(io.BytesIO):
    """A file with a limit on the number of reads, because a few bytes can keep a parser busy for long."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _READ_LIMIT:
            raise ValueError("it has too many parts")
        return super().read(size)


def _check_scans(jpeg: bytes, pixels: int, name: str) -> None:
    """Refuse a JPEG with so many scans that decoding takes long: each scan covers all pixels (ITU-T T.81, annex B).

    Raises:
        DigitError: there are too many scans, or too many segments between them.
    """
    scans = segments = at = 0
    limit = min(_SCAN_LIMIT, _SCANNED_LIMIT // pixels)
    while marker := _MARKER.search(jpeg, at):
        kind, at = marker[1], marker.end()
        if kind == b"\xd9":  # end of the image
            return
        if kind >= b"\xc0" and kind != b"\xd8":  # has a segment
            at += int.from_bytes(jpeg[at : at + 2])
            segments += 1
        scans += kind == b"\xda"
        if scans > limit or segments > _SEGMENT_LIMIT:
            raise DigitError(
                f"{name} is a JPEG of more than {limit} scans or {_SEGMENT_LIMIT:,} segments; save it again"
            )


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > PIXEL_LIMIT:
        raise DigitError(
            f"{name} has {image.width}x{image.height} pixels, more than {PIXEL_LIMIT:,}; crop it to the digit"
        )
    if min(image.size) < SMALLEST_SIDE:
        raise DigitError(f"{name} has {image.width}x{image.height} pixels, too few for a digit; give a larger picture")


def _luminance(image: Image.Image) -> Grey:
    factor = math.ceil(max(image.size) / _WORKING_SIDE)
    if image.mode in _DIRECT and "transparency" not in image.info:
        reduced = image.reduce(factor)
    else:
        reduced = _reduced(image, factor)
    reduced.info = image.info  # EXIF's orientation
    upright = _upright(reduced)
    return np.asarray((_on_paper(upright) if upright.mode == "RGBA" else upright).convert("L"))


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say, if they can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  # malformed EXIF data make it raise anything
        return image


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Reduce an image to RGBA tile by tile, because the largest image takes 200 MB as RGBA."""
    reduced = Image.new("RGBA", (-(-image.width // factor), -(-image.height // factor)))
    depth = _depth(image, factor)
    for left, top, tile in _tiles(image, factor):
        shallow = tile if depth is None else Image.fromarray(_shallow(tile, *depth))
        reduced.paste(shallow.convert("RGBA").reduce(factor), (left, top))
    return reduced


def _tiles(image: Image.Image, factor: int) -> Iterator[tuple[int, int, Image.Image]]:
    """Cut an image into tiles of `_TILE` pixels once reduced, each with its place in the reduced image."""
    step = _TILE * factor
    for left, top in itertools.product(range(0, image.width, step), range(0, image.height, step)):
        box = (left, top, min(left + step, image.width), min(top + step, image.height))
        yield left // factor, top // factor, image.crop(box)


def _depth(image: Image.Image, factor: int) -> tuple[float, float] | None:
    """Return the lowest and highest level of a grey image deeper than 8 bits, None for other images.

    Integers are taken to fill their bits, 8 at least: scanners and sensors leave 10 or 12 bits in a file of 16.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    levels = [np.nan_to_num(np.asarray(tile)) for _, _, tile in _tiles(image, factor)]
    lowest, highest = (float(edge([edge(tile) for tile in levels])) for edge in (np.min, np.max))
    if image.mode.startswith("I"):
        return 0.0, float(max(255, 2 ** int(highest).bit_length() - 1))
    return lowest, highest


def _shallow(tile: Image.Image, lowest: float, highest: float) -> Grey:
    levels = (np.nan_to_num(np.asarray(tile)).astype(np.float64) - lowest) / max(highest - lowest, 1e-30)
    grey: Grey = (255 * np.clip(levels, 0, 1)).astype(np.uint8)
    return grey


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay a transparent image on whichever of white and black its opaque parts stand out from."""
    grey, alpha = (np.asarray(image.convert("L"), np.float64), np.asarray(image.getchannel("A"), np.float64))
    dark = (grey * alpha).sum() < 127.5 * alpha.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if dark else "black"), image)


def shrunk(grey: Grey, pixels: int) -> Grey:
    """Reduce a grey image to about `pixels` pixels, each the mean of those it replaces; keep smaller images."""
    shrinkage = math.sqrt(pixels / grey.size)
    if shrinkage >= 1:
        return grey
    height, width = (max(1, round(side * shrinkage)) for side in grey.shape)
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))
