"""The formats that `mnist-export` writes: what each is called, the file it becomes, and the pixels it takes."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from mnist_export.errors import UnknownFormatError
from mnist_export.triton import MODEL_FILE


@dataclass(frozen=True)
class Format:
    """One kind of artifact."""

    name: str
    file: str
    """Its path within the output folder, with "/"."""
    dtype: str
    """Of the input `pixels`: "float32" (intensity / 256) or "uint8" (raw intensity)."""

    @property
    def is_onnx(self) -> bool:
        """Whether onnxruntime runs it."""
        return self.file.endswith(".onnx")


FORMATS = {
    form.name: form
    for form in (
        Format("onnx", "mnist.onnx", "float32"),
        Format("onnx-uint8", "mnist.uint8.onnx", "uint8"),
        Format("onnx-int8", "mnist.int8.onnx", "float32"),
        Format("torchscript", "mnist.torchscript.pt", "float32"),
        Format("pt2", "mnist.pt2", "float32"),
        Format("triton", MODEL_FILE, "float32"),
    )
}
"""By name."""

DEFAULT = ("onnx", "onnx-uint8", "torchscript")
ALL = "all"


def named(names: Sequence[str]) -> list[Format]:
    """Return the formats of these names, each once; "all" stands for every one.

    Raises:
        UnknownFormatError: there is none of that name; it suggests the nearest.

    >>> [form.file for form in named(["onnx", "onnx-uint8", "onnx"])]
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
