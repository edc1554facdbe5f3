"""What can go wrong in export."""

from typing import TYPE_CHECKING

from mnist_train.errors import MnistEdgeError

if TYPE_CHECKING:
    from mnist_export.gate import Verdict
    from mnist_export.golden import Expected


class ExportError(MnistEdgeError, RuntimeError):
    """The module cannot be turned into the format asked for."""


class ParityError(MnistEdgeError, ArithmeticError):
    """An artifact does not compute what was trained; nothing was published."""

    def __init__(self, sentence: str, form: str, verdict: "Verdict", expected: "Expected") -> None:
        super().__init__(sentence)
        self.format = form
        """Name of the format that was refused: "onnx", "torchscript"..."""
        self.verdict = verdict
        """What the gate found."""
        self.expected = expected
        """What it was looking for."""


class BusyError(MnistEdgeError, TimeoutError):
    """Another exporter is publishing into the same folder."""


class UnknownFormatError(MnistEdgeError, ValueError):
    """There is no format of that name."""
