"""The classifier that other programs embed: digits in, labels out, with scikit-learn's method names."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias
from weakref import WeakSet

import numpy as np

from mnist_runtime.bundled import BUNDLED, DEFAULT
from mnist_runtime.digits import CLASSES, PIXELS, Intensities, Pixels, as_digits
from mnist_runtime.errors import ArtifactError, ClosedError, DigitError, OptionError
from mnist_runtime.io.files import read_whole, reading
from mnist_runtime.model.artifact import ROW_SHAPES, SIZE_LIMIT, WANTED, Artifact, Contract
from mnist_runtime.model.session import Provider, SessionSettings
from mnist_runtime.verdicts import VERDICTS, Rule, Verdict

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import ArrayLike, NDArray
    from PIL.Image import Image

    from mnist_runtime.model.comparison import Comparison

_UINT8 = np.dtype(np.uint8)

Model: TypeAlias = "str | os.PathLike[str] | bytes"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Prediction for one digit."""

    label: int
    """Most probable class, 0-9."""
    probability: float
    """Probability of that class, within [0, 1]."""
    probabilities: tuple[float, ...]
    """Probabilities of the classes 0 to 9, given that the picture shows a digit; their sum is 1 within float32
    rounding."""
    no_digit: float = 0.0
    """Probability that the picture shows no digit; 0 from a model that takes every picture for a digit."""
    verdict: Verdict = "digit"
    """Verdict on the label: "digit", "unsure" or "no digit"."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict of all fields."""
        return {
            "verdict": self.verdict,
            "label": self.label,
            "probability": self.probability,
            "no_digit": self.no_digit,
            "probabilities": list(self.probabilities),
        }

    def top(self, k: int) -> list[tuple[int, float]]:
        """Return the `k` most probable classes and their probabilities, the best first, `label` first among equals."""
        ranked = sorted(range(len(CLASSES)), key=lambda label: (-self.probabilities[label], label != self.label))
        return [(label, self.probabilities[label]) for label in ranked[:k]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a model for N digits."""

    logits: NDArray[np.float32]
    """Logits, float32 `[N, 10]`."""
    probabilities: NDArray[np.float32]
    """Probabilities (softmax of the logits), float32 `[N, 10]`."""
    no_digit: NDArray[np.float32]
    """Probability of no digit, float32 `[N]`; 0 from a model that takes every picture for a digit."""
    rule: Rule
    """Rule that the verdicts follow."""

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, digits: slice) -> Outputs:
        return Outputs(self.logits[digits], self.probabilities[digits], self.no_digit[digits], self.rule)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels, int64 `[N]`: the class of the largest logit, the first of equals."""
        return _labels(self.logits)

    @property
    def verdicts(self) -> NDArray[np.int64]:
        """Verdict on each label, int64 `[N]`: its index in `mnist_runtime.verdicts.VERDICTS`."""
        probability = self.probabilities[np.arange(len(self)), self.labels].astype(np.float64)
        verdicts: NDArray[np.int64] = self.rule.judge(probability, self.no_digit.astype(np.float64))
        return verdicts

    def predictions(self) -> Iterator[Prediction]:
        """Yield label, probabilities and verdict of each digit."""
        columns = self.logits.tolist(), self.probabilities.tolist(), self.no_digit.tolist()
        for logits, probabilities, no_digit in zip(*columns, strict=True):
            yield _prediction(logits, probabilities, no_digit, self.rule)


class Classifier:
    """A trained digit classifier on onnxruntime.

    `X` is any batch or single digit of the input contract (`mnist_runtime.digits.as_digits`): uint8 0-255 or
    floats within [0, 1], of shape `(784,)`, `(28, 28)`, `(N, 784)`, `(N, 28, 28)` or `(N, 1, 28, 28)`. A single
    digit counts as a batch of one. Every method raises `DigitError` for anything else, and `ClosedError` after `close`.

    One classifier may serve many threads at once, survives `fork`, and can be pickled into other processes. It is a
    fitted scikit-learn classifier for `sklearn.metrics`, `FrozenEstimator` and other tools that take one.

    >>> classifier = Classifier()
    >>> blank = np.zeros((28, 28), dtype=np.uint8)
    >>> classifier.predict_proba(blank).shape
    (1, 10)
    >>> classifier.classify(blank).label in classifier.classes_
    True
    """

    artifact: Artifact
    """Model, or the first of two graphs."""
    max_error: float | None
    """Largest share of wrong labels among the digits, as given."""
    classes_: NDArray[np.int64]
    """Labels 0-9, int64 `[10]`."""
    n_features_in_ = PIXELS
    """Number of pixels of a digit, 784."""

    def __init__(
        self,
        model: Model = DEFAULT,
        *,
        threads: int | Literal["auto"] = 1,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        session_options: ort.SessionOptions | None = None,
        trusted_contract: Contract | None = None,
        max_error: float | None = None,
    ) -> None:
        """Load a model and check it.

        Args:
            model: A .onnx file, its bytes, or a folder that `mnist-export` published: its manifest is checked, and if
                it lists both graphs, uint8 digits run on the uint8 one. Or the name of a bundled model: "cnn", exact
                and the default, or "linear".
            threads: Threads that share the batches of a call; "auto" means the CPUs that affinity and cgroup quota
                grant. A call of one batch uses one thread.
            providers: onnxruntime's execution providers, the preferred one first; each by its name, or with its
                options as a pair.
            session_options: onnxruntime's own options, taken as they are instead of our defaults.
            trusted_contract: "float32" (pixels are intensity / 256) or "uint8" (raw), for a model without our
                metadata, which is refused otherwise.
            max_error: Largest share of wrong labels among those whose verdict is "digit", such as 0.001. The largest
                risk up to it that the model states decides, by default the least one. 1 requires no confidence.

        Raises:
            FileMissingError, FileReadError: there is no such file, or it cannot be read.
            IntegrityError: it has changed since it was published.
            ArtifactError: the model is not ours, or cannot be loaded here.
            OptionError: a setting is invalid, this onnxruntime lacks the provider, or the model states no risk as low
                as `max_error`.
        """
        self._settings = SessionSettings(threads, providers, session_options)
        if trusted_contract not in (None, "float32", "uint8"):
            raise OptionError(f'trusted_contract is {trusted_contract!r}, and must be "float32" or "uint8"')
        self._trusted = trusted_contract
        self.max_error = max_error
        self._models: list[tuple[bytes, str]] = _read_models(model)
        self.classes_ = np.array(CLASSES, dtype=np.int64)
        self._open()

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Compute the logits, float32 `[N, 10]`, of the digits `X`."""
        return self._compute(as_digits(X), "logits")[0]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Compute the probabilities (softmax of the logits), float32 `[N, 10]`, of the digits `X`."""
        return self._compute(as_digits(X), "probabilities")[0]

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Predict the labels, int64 `[N]`, of the digits `X`: the class of the largest logit, the first of equals."""
        return _labels(self.decision_function(X))

    def compute(self, digits: Intensities | Pixels) -> Outputs:
        """Compute all outputs in one run, of digits that `as_digits` has checked.

        Args:
            digits: uint8 or float32 `[N, 784]`, not checked again; call `as_digits` first on anything else.
        """
        logits, probabilities, *known = self._compute(digits, *self._opened()[0].outputs)
        no_digit = known[0] if known else np.zeros(len(logits), np.float32)
        return Outputs(logits, probabilities, no_digit, self._rule)

    def iter_predict(self, chunks: Iterable[ArrayLike]) -> Iterator[NDArray[np.int64]]:
        """Predict the labels of each chunk of a stream, int64 `[N]`, as soon as it comes; holds one chunk at a time."""
        return map(self.predict, chunks)

    def classify(self, digit: ArrayLike) -> Prediction:
        """Predict label, probabilities and verdict of one digit, `(784,)`, `(28, 28)` or a batch of one."""
        digits = as_digits(digit)
        if len(digits) != 1:
            raise DigitError(f"these are {len(digits)} digits, and classify takes one; use predict for many")
        logits, probabilities, *known = self._compute(digits, *self._opened()[0].outputs)
        no_digit = known[0].item() if known else 0.0
        return _prediction(logits.tolist()[0], probabilities.tolist()[0], no_digit, self._rule)

    def read(self, image: str | os.PathLike[str] | bytes | Image) -> Prediction:
        """Predict label, probabilities and verdict of the one digit in a photograph, scan or drawing; needs Pillow.

        The digit may be dark on light or light on dark, in any size: it is found and given MNIST's form first, as
        `mnist-infer` does.

        Args:
            image: Path of an image file, the bytes of one, or an image that Pillow has opened or made.

        Raises:
            FileMissingError, FileReadError: there is no such file, or it cannot be read.
            DigitError: it is no image, or does not show exactly one digit.
            ExtraMissingError: Pillow is not installed.
        """
        from mnist_runtime.io.images import FILE_LIMIT, read_image

        name = "the image"
        if isinstance(image, (str, os.PathLike)):
            image, name = read_whole(image, limit=FILE_LIMIT, wanted="give an image file"), str(image)
        return self.classify(read_image(image, name))

    def predictions(self, X: ArrayLike) -> Iterator[Prediction]:
        """Predict label, probabilities and verdict of each of the digits `X`; batches are computed when reached."""
        digits, size = as_digits(X), self._opened()[0].batch * self._settings.thread_count
        for start in range(0, len(digits), size):
            yield from self.compute(digits[start : start + size]).predictions()

    def replay(self) -> list[Comparison]:
        """Compute the golden digits of each model file on this machine, and compare them with the trained logits.

        Raises:
            ArtifactError: a file contains no golden digits, or cannot compute them.
        """
        return [replace(artifact.replay(), name=artifact.name) for artifact in self._opened()]

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each model file, in hex."""
        return [artifact.sha256 for artifact in self._opened()]

    def close(self) -> None:
        """Free the model and onnxruntime's session; closing twice is fine."""
        self._models = []
        self._artifacts: list[Artifact] = []
        self._map = _parallel_map(1)
        self.__dict__.pop("artifact", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        """Name the models and their settings."""
        if not self._models:
            return "<Classifier, closed>"
        models = " and ".join(name for _, name in self._models)
        providers = ", ".join(self._opened()[0].session.get_providers())
        return f"<Classifier of {models}, {self._settings.threads} thread(s), {providers}>"

    def __getstate__(self) -> dict[str, Any]:
        """Return the model's bytes and settings; unpickling opens a session of its own."""
        if self._settings.session_options is not None:
            raise OptionError(
                "a classifier with session_options cannot be pickled, because onnxruntime.SessionOptions cannot; "
                "use threads= and providers=, or make the classifier in each process"
            )
        kept = ("_models", "_settings", "_trusted", "max_error")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.classes_ = np.array(CLASSES, dtype=np.int64)
        self._open()

    def fit(self, *_: object, **__: object) -> NoReturn:
        """Raise, because this classifier is already trained; scikit-learn asks every estimator for `fit`.

        Raises:
            OptionError: always.
        """
        raise OptionError("this classifier is already trained; wrap it in sklearn.frozen.FrozenEstimator")

    def __sklearn_is_fitted__(self) -> bool:
        return bool(self._models)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True),
        )

    def _open(self) -> None:
        self._artifacts = [
            Artifact.from_bytes(data, name, settings=self._settings, trusted_contract=self._trusted)
            for data, name in self._models
        ]
        if self._artifacts:
            self.artifact = self._artifacts[0]
            self._rule = self.artifact.thresholds.rule(self.max_error, self.artifact.name)
        self._map = _parallel_map(self._settings.thread_count)
        _alive.add(self)

    def _opened(self) -> list[Artifact]:
        """Return the models, opened if they are not: one, or one for each dtype."""
        if not self._artifacts:
            if not self._models:
                raise ClosedError("this classifier is closed; create another one")
            self._open()  # in a forked child, at first use
        return self._artifacts

    def _compute(self, digits: Intensities | Pixels, *outputs: str) -> list[NDArray[np.float32]]:
        """Compute the named outputs of checked digits, in batches that fit the processor's cache."""
        artifacts = self._artifacts or self._opened()
        wanted = "uint8" if digits.dtype == _UINT8 else "float32"
        artifact = artifacts[0] if artifacts[0].dtype == wanted else artifacts[-1]
        if 0 < len(digits) <= artifact.batch:
            return artifact.run(digits, *outputs)
        results = [np.empty((len(digits), *ROW_SHAPES[output]), np.float32) for output in outputs]

        def compute_batch(start: int) -> None:
            batch = slice(start, start + artifact.batch)
            for result, values in zip(results, artifact.run(digits[batch], *outputs), strict=True):
                result[batch] = values

        for _ in self._map(compute_batch, range(0, len(digits), artifact.batch)):
            pass
        return results

    def forget_session(self) -> None:
        """Drop the sessions of a forked child, whose threads and locks do not exist there, until next use."""
        if self._artifacts:
            for artifact in self._artifacts:  # freeing a session could join threads that do not exist
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(artifact))  # the interpreter must never free them
            self._artifacts = []


_alive: WeakSet[Classifier] = WeakSet()


def _after_fork() -> None:
    for classifier in _alive:
        classifier.forget_session()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _parallel_map(threads: int) -> Callable[[Callable[[int], None], Iterable[int]], Iterator[None]]:
    """Return `map`, or one that calls its function in `threads` threads, which end when it is dropped."""
    if threads == 1:
        return map
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads, thread_name_prefix="mnist-runtime").map


def _labels(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = logits.argmax(axis=1)
    return labels


def _prediction(logits: list[float], probabilities: list[float], no_digit: float, rule: Rule) -> Prediction:
    label = logits.index(max(logits))  # as in predict: probabilities can be equal where logits are not
    probability = probabilities[label]
    verdict = VERDICTS[rule.judge(probability, no_digit)]
    return Prediction(label, probability, tuple(probabilities), no_digit, verdict)


def _read_models(model: Model) -> list[tuple[bytes, str]]:
    """Return bytes and name of each graph of `model`."""
    if isinstance(model, str) and model in BUNDLED:
        return [_read_file(file, f"the bundled {file.name}") for file in BUNDLED[model]]
    if isinstance(model, bytes):
        return [(model, f"the model of {len(model):,} bytes")]
    if not isinstance(model, (str, os.PathLike)):
        raise OptionError(
            f"the model is a {type(model).__name__}, and must be a path, bytes, a published folder, or one of "
            f"{', '.join(map(repr, BUNDLED))}"
        )
    with reading(model, WANTED):
        is_folder = Path(model).is_dir()
    return _read_folder(Path(model)) if is_folder else [_read_file(model, str(model))]


def _read_file(path: str | os.PathLike[str], name: str) -> tuple[bytes, str]:
    return read_whole(path, limit=SIZE_LIMIT, wanted=WANTED), name


def _read_folder(folder: Path) -> list[tuple[bytes, str]]:
    from mnist_runtime.model.manifest import read_manifest

    manifest = read_manifest(folder)
    entries = [entry for format_ in ("onnx", "onnx-uint8") if (entry := manifest.find(format_))]
    if not entries and (exact := manifest.find("onnx-exact")):
        entries = [exact]
    if not entries:
        raise ArtifactError(f"{folder} was published without an ONNX model; export again with --format onnx")
    return [(manifest.read(entry.file), str(folder / entry.file)) for entry in entries]
