"""Digits with labels, and the bundled MNIST: 50,000 digits to train, 10,000 to validate, 10,000 to test."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import LEVELS, PIXELS, Intensities, Pixels
from mnist_train.errors import DataError

if TYPE_CHECKING:  # mnist-data describes and draws digits without torch
    import torch

BUNDLED = Path(__file__).with_name("mnist.npz")

SPLITS = ("train", "valid", "test")

DIGESTS = {
    "x_train": "c80ceb24eedca80f31cfca280b8fb911cbb41b9990f998bebd40e26b1ab6d0f8",
    "y_train": "6072d13d0c3b831e9e4dc3ba693426579504082fc45c186db0f74c0a3092638d",
    "x_valid": "2b079632b0defaf508a5ebf8c4ac1e18ce15c8b337da087e9c3e1c84c618d244",
    "y_valid": "f46875b7c22368a38a50c5c7639c3842341b81fe4d628c55fa1818e21e96ab3b",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
"""SHA-256 of the bytes of each array as uint8, computed from the canonical IDX files."""


@dataclass(frozen=True)
class Split:
    """Digits and their labels."""

    images: Intensities | Pixels
    """`[N, 28, 28]`: uint8, 0 black to 255 white, or float32 within [0, 1] if not all are multiples of 1/256."""
    labels: NDArray[np.uint8]
    """uint8 `[N]`, 0-9."""

    def __len__(self) -> int:
        return len(self.images)

    def part(self, first: int, stop: int) -> "Split":
        """Return the digits from `first` to before `stop`."""
        return Split(self.images[first:stop], self.labels[first:stop])

    def tensors(self, device: "torch.device | str" = "cpu") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return pixels and labels as in the lab: float32 `[N, 784]`, intensity / 256, and int64 `[N]`."""
        import torch

        pixels = scaled(torch.from_numpy(self.images).to(device).reshape(-1, PIXELS))
        return pixels, torch.from_numpy(self.labels).to(device, torch.int64)

    def digests(self) -> tuple[str, str]:
        """Return the SHA-256 of the bytes of images and labels, in hex."""
        return hashlib.sha256(self.images.data).hexdigest(), hashlib.sha256(self.labels.data).hexdigest()


def scaled(images: "torch.Tensor") -> "torch.Tensor":
    """Return intensities uint8 as pixels float32, intensity / 256; float32 pixels pass unchanged."""
    import torch

    return images if images.dtype == torch.float32 else images.to(torch.float32).div_(LEVELS)


def load_split(name: str, path: Path = BUNDLED) -> Split:
    """Load "train", "valid" or "test" of the MNIST at `path` and check its digests; no pickle is read.

    Raises:
        DataError: the file is missing, damaged, or not MNIST.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            split = Split(arrays[f"x_{name}"], arrays[f"y_{name}"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as MNIST ({error}); install mnist-edge again") from error
    for key, digest in zip((f"x_{name}", f"y_{name}"), split.digests(), strict=True):
        if digest != DIGESTS[key]:
            raise DataError(f"{key} in {path} differs from MNIST (by its SHA-256); install mnist-edge again")
    return split
