"""The model that is served: one classifier under one name, which may be replaced while requests are answered."""

from dataclasses import dataclass

from mnist_runtime.classifier import Classifier, Outputs
from mnist_runtime.digits import Intensities, Pixels
from mnist_serve.errors import NotServedError
from mnist_serve.protocol import VERSION

_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


@dataclass
class ServedModel:
    """A classifier and its name. Assigning another `classifier` replaces the model; runs under way end with the old."""

    classifier: Classifier
    name: str = "mnist"

    def compute(self, digits: Intensities | Pixels) -> Outputs:
        """Run the model on checked digits, `[N, 784]`."""
        return self.classifier.compute(digits)

    @property
    def datatype(self) -> str:
        """What its graph, or the first of two, takes."""
        return _DATATYPES[self.classifier.artifact.dtype]

    def check(self, name: str, version: str | None) -> None:
        """See that a request means this model.

        Raises:
            NotServedError: it means another one.
        """
        if name != self.name:
            raise NotServedError(f"there is no model {name[:60]!r} here; this server has {self.name}")
        if version not in (None, VERSION):
            raise NotServedError(f"there is no version {version[:20]!r} of {name} here; this server has {VERSION}")
