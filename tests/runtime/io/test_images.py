"""Images of digits: the recipe keeps them readable, and images without one digit are refused."""

import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter

from mnist_runtime import Classifier, DigitError
from mnist_runtime.ink import BOX, CENTRE
from mnist_runtime.io.images import read_image


def encode(picture, format_="PNG", **options):
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, format_, **options)
    return file.getvalue()


def page(digit, rng, *, scale=None):
    """A test digit enlarged, shifted and padded at random, dark on light or light on dark: uint8, any size."""
    side = round(28 * (scale or rng.uniform(1, 5)))
    enlarged = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    top, bottom, left, right = (int(pad) for pad in rng.integers(0, side, 4))
    sheet = np.zeros((side + top + bottom, side + left + right), np.uint8)
    sheet[top : top + side, left : left + side] = enlarged
    return 255 - sheet if rng.random() < 0.5 else sheet


def test_the_recipe_loses_less_than_a_point_of_accuracy_where_naive_resizing_loses_far_more(test_split):
    rng = np.random.default_rng(20261123)
    chosen = rng.choice(len(test_split.images), 1500, replace=False)
    digits, labels, classifier = test_split.images[chosen], test_split.labels[chosen], Classifier()
    pages = [encode(page(digit, rng)) for digit in digits]

    def accuracy(X):
        return np.mean(classifier.predict(X) == labels)

    raw = accuracy(digits)
    ours = accuracy(np.stack([read_image(data, "page") for data in pages]))
    naive = accuracy(
        np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((28, 28))) for data in pages])
    )
    print(f"raw {raw:.2%}, recipe {ours:.2%}, naive resizing {naive:.2%}")
    assert raw - ours < 0.01
    assert raw - naive > 0.3


TURNS = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""Transposition of the stored picture, by the EXIF orientation that undoes it."""


def written(digit, rng):
    """A test digit drawn large, turned by a few degrees, seen at a slant: the share of ink 0-1, `[height, width]`."""
    side = int(rng.integers(100, 180))
    width, height = (side + int(room) for room in rng.integers(60, 200, 2))
    left, top = int(rng.integers(20, width - side - 20)), int(rng.integers(20, height - side - 20))
    sheet = Image.new("L", (width, height))
    sheet.paste(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), (left, top))
    turned = sheet.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, center=(left + side / 2, top + side / 2))
    x, y = rng.uniform(-0.12, 0.12, 2) / [width, height]
    slant = (1 - x * width / 2, 0, 0, 0, 1 - y * height / 2, 0, -x, -y)  # its middle stays about where it is
    return np.asarray(turned.transform(sheet.size, Image.Transform.PERSPECTIVE, slant, Image.Resampling.BICUBIC)) / 255


def photograph(digit, rng):
    """A test digit as a telephone sees it: fibrous paper, light from one side, dark corners, a noisy JPEG, turned."""
    ink = written(digit, rng)
    height, width = ink.shape
    grain = rng.normal(0, 1, ink.shape)
    blurred = Image.fromarray((128 + 32 * grain).clip(0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(3))
    paper = 225 + 3 * grain + 3 * (np.asarray(blurred, float) - 128) / 4
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    angle = rng.uniform(0, 2 * np.pi)
    light = (0.8 + 0.2 * (np.cos(angle) * across + np.sin(angle) * down)) * (1 - 0.15 * (across**2 + down**2))
    reflected = 1 - ink[..., None] * (1 - rng.uniform(0.1, 0.35, 3))  # the pen's colour
    picture = (paper * light)[..., None] * [1, 0.97, 0.9] * reflected + rng.normal(0, 3, (height, width, 3))
    photo = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    exif = Image.Exif()
    exif[0x0112] = orientation = int(rng.choice(list(TURNS)))
    if TURNS[orientation] is not None:
        photo = photo.transpose(TURNS[orientation])
    return encode(photo, "JPEG", quality=int(rng.integers(40, 75)), exif=exif)


def test_photographs_of_digits_are_recognised_as_the_digits_are(test_split):
    rng = np.random.default_rng(20261124)
    chosen = rng.choice(len(test_split.images), 250, replace=False)
    digits, labels, classifier = test_split.images[chosen], test_split.labels[chosen], Classifier()
    read = np.stack([read_image(photograph(digit, rng), "photograph") for digit in digits])
    raw, ours = (np.mean(classifier.predict(X) == labels) for X in (digits, read))
    print(f"raw {raw:.2%}, photographs {ours:.2%}")
    assert raw - ours < 0.03


@pytest.mark.parametrize("paper", [lambda ink: ink, lambda ink: 255 - ink], ids=["light on dark", "dark on light"])
def test_most_digits_cut_tightly_to_their_ink_are_recognised_and_the_others_refused(test_split, paper):
    digits, labels, classifier = test_split.images[:200], test_split.labels[:200], Classifier()
    read, refusals = {}, []
    for index, digit in enumerate(digits):
        box = Image.fromarray(digit).crop(Image.fromarray(digit).getbbox())
        enlarged = box.resize((8 * box.width, 8 * box.height), Image.Resampling.BICUBIC)
        try:
            read[index] = read_image(encode(paper(np.asarray(enlarged))), "page")
        except DigitError as error:
            refusals.append(str(error))
    found = list(read)
    raw, ours = (
        np.mean(classifier.predict(X) == labels[found]) for X in (digits[found], np.stack(list(read.values())))
    )
    print(f"{len(found) / len(digits):.0%} read; raw {raw:.2%}, cut tightly {ours:.2%}")
    assert len(found) > 0.75 * len(digits)
    assert raw - ours < 0.03
    assert all("leave some background around it" in refusal for refusal in refusals)


def test_a_speck_beside_the_digit_is_ignored(seven):
    clean = read_image(encode(seven), "page")
    seven[4:8, 226:230] = 60
    seven[280:284, 10:14] = 60
    assert np.array_equal(read_image(encode(seven), "page"), clean)


def test_pictures_get_the_geometry_of_mnist(test_split):
    rng = np.random.default_rng(1)
    for digit in test_split.images[:50]:
        read = read_image(encode(page(digit, rng, scale=8)), "page").reshape(28, 28).astype(float)
        rows, columns = (np.flatnonzero(read.any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in {BOX - 1, BOX}
        for axis in (0, 1):
            mass = read.sum(axis=1 - axis)
            assert abs((mass * np.arange(28)).sum() / mass.sum() - CENTRE) <= 0.51


@pytest.fixture
def seven(test_split):
    """A page with the first test digit, a 7, light on dark."""
    sheet = np.zeros((300, 240), np.uint8)
    sheet[40:264, 8:232] = Image.fromarray(test_split.images[0]).resize((224, 224), Image.Resampling.BICUBIC)
    return sheet


def label(data):
    return Classifier().classify(read_image(data, "page")).label


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 60}),
        ("BMP", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        pytest.param("AVIF", {}, marks=pytest.mark.skipif("AVIF" not in Image.SAVE, reason="Pillow reads no AVIF")),
    ],
)
def test_every_format_is_read(seven, format_, options):
    assert label(encode(seven, format_, **options)) == 7
    assert label(encode(255 - seven, format_, **options)) == 7


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_is_read(seven, mode):
    if mode == "I;16":
        picture = Image.fromarray(seven.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(seven).convert("RGB").convert(mode)
    assert label(encode(picture, "JPEG" if mode == "CMYK" else "PNG")) == 7


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("paper", [lambda ink: ink, lambda ink: 255 - ink], ids=["light on dark", "dark on light"])
def test_deep_greys_are_read_by_their_own_range(seven, paper, bits):
    assert label(encode(paper(seven).astype(np.uint16) << (bits - 8))) == 7
    assert label(encode(paper(seven).astype(np.float32) / 255, "TIFF")) == 7


@pytest.mark.parametrize("ink", [0, 255, 40])
def test_ink_on_a_transparent_ground_is_seen(seven, ink):
    picture = np.full((*seven.shape, 4), ink, np.uint8)
    picture[..., 3] = seven
    assert label(encode(picture)) == 7


def test_coloured_ink_on_coloured_paper_is_seen(seven):
    share = seven[..., None] / 255
    picture = (share * [30, 60, 160] + (1 - share) * [240, 225, 180]).astype(np.uint8)
    assert label(encode(picture)) == 7


def test_a_photograph_with_uneven_light_and_noise_is_read(seven):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0 : seven.shape[0], 0 : seven.shape[1]] / 300
    light = 0.95 - 0.45 * x - 0.2 * y**2
    picture = 255 * light * (1 - 0.75 * seven / 255) + rng.normal(0, 4, seven.shape)
    assert label(encode(picture.clip(0, 255).astype(np.uint8), "JPEG", quality=80)) == 7


def test_the_rotation_in_exif_data_is_undone(seven):
    picture = Image.fromarray(seven).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture has to be turned by 90 degrees clockwise
    assert label(encode(picture, "JPEG", exif=exif)) == 7


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (np.full((100, 100), 255, np.uint8), "nothing stands out"),
        (np.zeros((100, 100), np.uint8), "nothing stands out"),
        (np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8), "shows no digit"),
        (np.random.default_rng(0).normal(128, 8, (100, 100)).astype(np.uint8), "nothing stands out"),
        (np.linspace(0, 255, 10_000).reshape(100, 100).astype(np.uint8), "nothing stands out"),
        (np.pad(np.full((3, 3), 255, np.uint8), 50), "spans 3 pixels"),
        (np.zeros((7, 90), np.uint8), "too few"),
        (np.zeros((7100, 7100), np.uint8), "more than 50,000,000"),
    ],
    ids=["white", "black", "noise", "faint noise", "ramp", "speck", "sliver", "large"],
)
def test_an_image_without_a_readable_digit_is_refused(picture, sentence):
    with pytest.raises(DigitError, match=sentence):
        read_image(encode(picture), "page")


def progressive(digit, side: int = 200) -> tuple[bytes, bytes, bytes]:
    """A digit as a progressive JPEG: all but its last scan, that scan, and the end of the image."""
    jpeg = encode(Image.fromarray(255 - digit).resize((side, side)), "JPEG", progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start], jpeg[start:-2], jpeg[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(test_split):
    """Each scan covers all pixels, and takes a few bytes."""
    start, scan, end = progressive(test_split.images[0])
    assert read_image(start + 80 * scan + end, "x").any()
    for image in (start + 101 * scan + end, start + b"\xff\x02\xff\xff" + 101 * scan + end):
        with pytest.raises(DigitError, match="more than 100 scans or 10,000 segments; save it again"):
            read_image(image, "x")
    start, scan, end = progressive(test_split.images[0], 3600)
    with pytest.raises(DigitError, match="more than 77 scans"):
        read_image(start + 80 * scan + end, "x")


def test_bytes_outside_the_image_are_not_counted_as_scans(test_split):
    """Such bytes are in previews within the headers, and in videos that telephones append to the image."""
    start, scan, end = progressive(test_split.images[0])
    preview = b"\xff\xe1" + (2 + 4000).to_bytes(2) + b"\xff\xda\0\2" * 1000
    assert read_image(start[:2] + preview + start[2:] + scan + end + b"\xff\xda" * 1000, "x").any()


@pytest.mark.parametrize("part", [b"\xff\xfe\0\2", b"\xff", b"\xff\xe5\0\2"], ids=["comments", "padding", "extensions"])
def test_a_jpeg_of_many_tiny_parts_is_refused_at_once(test_split, part):
    start, scan, end = progressive(test_split.images[0])
    with pytest.raises(DigitError, match=r"damaged image \(it has too many parts\)"):
        read_image(start[:2] + 200_000 * part + start[2:] + scan + end, "x")
    if len(part) > 1:  # between scans too, unless it is padding
        with pytest.raises(DigitError, match="10,000 segments"):
            read_image(start + scan + 10_000 * part + scan + end, "x")


@pytest.mark.parametrize("chunk", [b"teSt", b"IDAT"])
def test_a_png_of_many_tiny_chunks_is_refused_at_once(chunk):
    png = encode(np.zeros((28, 28), np.uint8))
    empty = bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with pytest.raises(DigitError, match=r"damaged image \(it has too many parts\)"):
        read_image(png[:33] + 100_000 * empty + png[33:], "x")


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    bomb = bytearray(encode(np.zeros((8, 8), np.uint8)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the width and height that the header claims
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(DigitError, match="more than 50,000,000"):
        read_image(bytes(bomb), "bomb")


def test_other_and_truncated_files_are_refused_as_images():
    with pytest.raises(DigitError, match="not an image that Pillow reads"):
        read_image(b"GIF89a, as it happens", "page")
    with pytest.raises(DigitError, match="damaged"):
        read_image(encode(np.zeros((90, 90), np.uint8))[:60], "page")


MEASURE = """
import pathlib, sys
from mnist_runtime import DigitError
from mnist_runtime.io.images import read_image
def peak():  # of this program alone, because ru_maxrss includes its parent's
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])
data = pathlib.Path(sys.argv[1]).read_bytes()
before = peak()
try:
    read_image(data, "the picture")
except DigitError as error:
    assert "nothing stands out" in str(error)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("mode", "format_", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGB", "PNG", {"transparency": (0, 0, 0)}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("RGB", "BMP", {}),
    ],
    ids=["RGBA", "LA", "transparent colour", "progressive JPEG", "BMP"],
)
def test_the_largest_picture_takes_little_more_memory_than_its_decoder(tmp_path, mode, format_, options):
    Image.new(mode, (7050, 7050), "white").save(tmp_path / "large", format_, **options)
    taken = int(subprocess.check_output([sys.executable, "-c", MEASURE, tmp_path / "large"], timeout=60))
    assert taken * 1024 < 350_000_000  # 4 bytes per decoded pixel; 6 per pixel of a progressive JPEG's coefficients


def test_malformed_exif_data_are_ignored(test_split):
    picture, exif, file = Image.fromarray(255 - test_split.images[0]).resize((100, 100)), Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(file, "JPEG", exif=exif.tobytes().replace(b"MM\0*", b"QM\0*"))
    assert label(file.getvalue()) == 7
