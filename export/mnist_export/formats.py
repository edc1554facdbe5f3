"""The registry of formats: one row per format, whose recipe lies in a module of its own.

A row is cheap. Its recipe imports torch or onnx, and is itself imported when it is first used.
"""

import difflib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_export.errors import ExportError, UnknownFormatError
from mnist_runtime.errors import first_line

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle
    from mnist_export.gate import Compute
    from mnist_export.golden import Expected
    from mnist_export.publishing import File


@dataclass(frozen=True)
class Format:
    """A kind of artifact."""

    name: str
    """Name on the command line and in manifest.json."""
    file: str
    """Path within the output folder, with "/"."""
    dtype: str
    """Dtype of the input `pixels`: "float32" (intensity / 256) or "uint8" (raw intensity)."""
    code: str
    """Recipe class, as "module:class"."""
    lossy: bool = False
    """True if the artifact rounds the trained weights, and may therefore lose accuracy."""

    @property
    def is_onnx(self) -> bool:
        """True if onnxruntime runs the artifact."""
        return self.file.endswith(".onnx")

    @property
    def contract(self) -> dict[str, Any]:
        """Description of the input, for manifest.json and the ONNX metadata."""
        from mnist_runtime.digits import LEVELS, PIXELS  # and with it NumPy

        return {
            "name": "pixels",
            "dtype": self.dtype,
            "shape": ["batch", PIXELS],
            "scale": f"1/{LEVELS}" if self.dtype == "float32" else "1",
            "layout": "28x28 row-major, white ink on black",
        }

    @property
    def recipe(self) -> "Recipe":
        """Recipe of this format, imported now."""
        recipe: Recipe = pkgutil.resolve_name(self.code)(self)
        return recipe

    def load(self, data: bytes) -> "Compute":
        """Load the artifact `data` as an application does, and return the function that runs it.

        Raises:
            ExportError: the artifact cannot be loaded.
        """
        try:
            return self.recipe.load(data)
        except Exception as error:  # each engine raises its own
            raise ExportError(
                f"{self.file} cannot be loaded again ({first_line(error)}); nothing was published"
            ) from error


@dataclass(frozen=True)
class Recipe(ABC):
    """How one format is built, loaded and described; each format's module has a subclass."""

    format: Format
    """Format that this recipe makes."""

    @abstractmethod
    def build(self, bundle: "Bundle", expected: "Expected") -> bytes:
        """Return the artifact of `bundle`'s module, which has to compute `expected`.

        Raises:
            ExportError: the module cannot be turned into this format.
        """

    @abstractmethod
    def load(self, data: bytes) -> "Compute":
        """Load an artifact; any exception means that it cannot be loaded."""

    def expect(self, bundle: "Bundle") -> "Expected":
        """Return what the artifact must compute; by default, what the trained module computes."""
        return bundle.expected

    def describe(self, bundle: "Bundle") -> Mapping[str, Any]:  # noqa: ARG002
        """Return the fields of the artifact in manifest.json besides its format, input and verdict."""
        return {}

    def side_files(self, bundle: "Bundle") -> Sequence["File"]:  # noqa: ARG002
        """Return the files to publish beside the artifact."""
        return ()


FORMATS = {
    format_.name: format_
    for format_ in (
        Format("onnx", "mnist.onnx", "float32", "mnist_export.onnx:Onnx"),
        Format("onnx-uint8", "mnist.uint8.onnx", "uint8", "mnist_export.onnx:OnnxUint8"),
        Format("onnx-exact", "mnist.exact.onnx", "uint8", "mnist_export.exact.formats:OnnxExact", lossy=True),
        Format("c", "mnist.h", "uint8", "mnist_export.exact.formats:C", lossy=True),
        Format("js", "mnist.mjs", "uint8", "mnist_export.exact.formats:Js", lossy=True),
        Format("html", "mnist.html", "uint8", "mnist_export.exact.formats:Html", lossy=True),
        Format("torchscript", "mnist.torchscript.pt", "float32", "mnist_export.torchscript:TorchScript"),
        Format("pt2", "mnist.pt2", "float32", "mnist_export.pt2:Pt2"),
        Format("triton", "triton/mnist/1/model.onnx", "float32", "mnist_export.triton:Triton"),
    )
}
"""Formats by name."""

DEFAULT = ("onnx", "onnx-uint8", "torchscript")
ALL = "all"


def named(names: Sequence[str]) -> list[Format]:
    """Return the formats of these names, each once; "all" stands for every format.

    Raises:
        UnknownFormatError: there is no format of that name; the error suggests the nearest.

    >>> [format_.file for format_ in named(["onnx", "onnx-uint8", "onnx"])]
    ['mnist.onnx', 'mnist.uint8.onnx']
    >>> named(["onxx"])
    Traceback (most recent call last):
    ...
    mnist_export.errors.UnknownFormatError: there is no format 'onxx'; did you mean 'onnx'? There are onnx, ...
    """
    for name in names:
        if name not in {*FORMATS, ALL}:
            near = difflib.get_close_matches(name.lower(), [*FORMATS, ALL], n=1, cutoff=0.5)
            hint = f" did you mean {near[0]!r}?" if near else ""
            raise UnknownFormatError(f"there is no format {name!r};{hint} There are {', '.join([*FORMATS, ALL])}.")
    return list(FORMATS.values()) if ALL in names else [FORMATS[name] for name in dict.fromkeys(names)]
