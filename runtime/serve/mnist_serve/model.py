"""The model that is served: one classifier under one name, which may be replaced while requests are answered."""

from dataclasses import dataclass

from mnist_runtime.classifier import Classifier, Outputs
from mnist_runtime.digits import Intensities, Pixels
from mnist_serve.errors import RequestError
from mnist_serve.protocol import MODEL_VERSION

_DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


@dataclass
class ServedModel:
    """A classifier and its name; assign another classifier to replace the model for new requests."""

    classifier: Classifier
    name: str = "mnist"

    def compute(self, digits: Intensities | Pixels) -> Outputs:
        """Compute checked digits, `[N, 784]`."""
        return self.classifier.compute(digits)

    @property
    def datatype(self) -> str:
        """Datatype, in the protocol's words, of the input of the graph, or of the first of two graphs."""
        return _DATATYPES[self.classifier.artifact.dtype]

    def info(self) -> dict[str, str]:
        """Return the labels of the metric that identifies the model."""
        return {"name": self.name, "sha256": " ".join(self.classifier.digests)}

    def check(self, model: str, version: str | None = None) -> None:
        """Check that a request's path names this model.

        Raises:
            RequestError: the path names another model or version.
        """
        if model != self.name:
            raise RequestError(f"model {model[:60]!r} is not served here; this server has {self.name}", 404)
        if version not in (None, MODEL_VERSION):
            sentence = f"version {version[:20]!r} of {model} is not served here; this server has {MODEL_VERSION}"
            raise RequestError(sentence, 404)
