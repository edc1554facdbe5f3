"""Digits in, labels out: the classifier that other programs embed, with scikit-learn's method names."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias
from weakref import WeakSet

import numpy as np

from mnist_runtime.digits import CLASSES, PIXELS, as_batch, is_unit_float32
from mnist_runtime.errors import ArtifactError, ClosedError, DigitError, OptionError
from mnist_runtime.io.files import read_whole, reading
from mnist_runtime.model.artifact import BUNDLED, SIZE_LIMIT, WANTED, Artifact, Contract
from mnist_runtime.model.session import Provider, Settings

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import ArrayLike, NDArray

    from mnist_runtime.model.comparison import Comparison

CHUNK = 1024
"""Digits computed at a time: their float32 pixels, 3 MiB, stay in the processor's cache."""

_ONE_DIGIT = frozenset([(PIXELS,), (28, 28), (1, PIXELS), (1, 28, 28), (1, 1, 28, 28)])
_UINT8 = np.dtype(np.uint8)
_FLOAT32 = np.dtype(np.float32)
_LOGITS, _PROBABILITIES = ["logits"], ["probabilities"]
_BOTH = _LOGITS + _PROBABILITIES

Model: TypeAlias = "str | os.PathLike[str] | bytes"
_Run: TypeAlias = "Callable[[Sequence[str], Mapping[str, Any], None], list[NDArray[np.float32]]]"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one digit."""

    label: int
    """The most probable class, 0-9."""
    probability: float
    """Of that class, within [0, 1]."""
    probabilities: tuple[float, ...]
    """Of the classes 0 to 9; they sum to 1 within float32 rounding."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: label, probability and the list of probabilities."""
        return {"label": self.label, "probability": self.probability, "probabilities": list(self.probabilities)}

    def top(self, k: int) -> list[tuple[int, float]]:
        """The `k` most probable classes with their probabilities, the best first and `label` first of equals."""
        ranked = sorted(range(len(CLASSES)), key=lambda label: (-self.probabilities[label], label != self.label))
        return [(label, self.probabilities[label]) for label in ranked[:k]]


class Classifier:
    """A trained digit classifier on onnxruntime.

    `X` is any batch or single digit of the input contract (`mnist_runtime.digits.as_digits`): uint8 0-255 or
    floats within [0, 1], of shape `(784,)`, `(28, 28)`, `(N, 784)`, `(N, 28, 28)` or `(N, 1, 28, 28)`. A single
    digit counts as a batch of one. Every method raises `DigitError` for anything else, and `ClosedError` after `close`.

    One classifier may serve many threads at once, survives `fork`, and can be pickled into other processes. It is a
    fitted scikit-learn classifier for `sklearn.metrics`, `FrozenEstimator` and what takes one.

    >>> classifier = Classifier()
    >>> blank = np.zeros((28, 28), dtype=np.uint8)
    >>> classifier.predict_proba(blank).shape
    (1, 10)
    >>> classifier.classify(blank).label in classifier.classes_
    True
    """

    artifact: Artifact
    """The model, or the first of a published folder's two."""
    classes_: NDArray[np.int64]
    """The labels 0-9, int64 `[10]`."""
    n_features_in_ = PIXELS
    """Pixels of a digit."""

    def __init__(
        self,
        model: Model | None = None,
        *,
        threads: int | Literal["auto"] = 1,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        session_options: ort.SessionOptions | None = None,
        trusted_contract: Contract | None = None,
    ) -> None:
        """Load a model and check it.

        Args:
            model: A .onnx file, its bytes, or a folder that `mnist-export` published: its manifest is checked, and
                given both graphs, uint8 digits take the uint8 one. The bundled model if not given.
            threads: Of one call; "auto" takes the CPUs that affinity and cgroup quota grant. A model this small is
                fastest with one.
            providers: onnxruntime's execution providers, the preferred one first; each by its name, or with its
                options as a pair.
            session_options: onnxruntime's own options, taken as they are instead of `threads` and our defaults.
            trusted_contract: "float32" (pixels are intensity / 256) or "uint8" (raw), for a model without our
                metadata, which is refused otherwise.

        Raises:
            FileMissingError, FileReadError: it is not there, or cannot be read.
            IntegrityError: it has changed since it was published.
            ArtifactError: it is not ours, or not loadable here.
            OptionError: a setting makes no sense, or this onnxruntime lacks the provider.
        """
        self._settings = Settings(threads, providers, session_options)
        if trusted_contract not in (None, "float32", "uint8"):
            raise OptionError(f'trusted_contract is {trusted_contract!r}, and must be "float32" or "uint8"')
        self._trusted = trusted_contract
        self._models: list[tuple[bytes, str]] = _read_models(model)
        self.classes_ = np.array(CLASSES, dtype=np.int64)
        self._open()

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Logits, float32 `[N, 10]`, of the digits `X`."""
        if (one := self._one_digit(X)) is not None:
            return one[0](_LOGITS, one[1], None)[0]
        return self._batch(X, _LOGITS)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Probabilities (softmax of the logits), float32 `[N, 10]`, of the digits `X`."""
        if (one := self._one_digit(X)) is not None:
            return one[0](_PROBABILITIES, one[1], None)[0]
        return self._batch(X, _PROBABILITIES)

    def logits_and_probabilities(self, X: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both of `decision_function` and `predict_proba`, each float32 `[N, 10]`, from one run of the model."""
        if (one := self._one_digit(X)) is not None:
            logits, probabilities = one[0](_BOTH, one[1], None)
            return logits, probabilities
        digits = as_batch(X)
        both = np.empty((2, len(digits), len(CLASSES)), np.float32)
        for start, values in self._chunks(digits, _BOTH):
            both[:, start : start + len(values[0])] = values
        return both[0], both[1]

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Labels, int64 `[N]`, of the digits `X`: the class of the largest logit, the first one of equals."""
        digits = as_batch(X)
        labels = np.empty(len(digits), np.int64)
        for start, (logits,) in self._chunks(digits, _LOGITS):
            logits.argmax(axis=1, out=labels[start : start + len(logits)])
        return labels

    def iter_predict(self, chunks: Iterable[ArrayLike]) -> Iterator[NDArray[np.int64]]:
        """Labels of each chunk of a stream, int64 `[N]`, as soon as it comes; holds one chunk at a time."""
        for chunk in chunks:
            yield self.predict(chunk)

    def classify(self, digit: ArrayLike) -> Prediction:
        """Label and probabilities of one digit, `(784,)`, `(28, 28)` or a batch of one."""
        if (one := self._one_digit(digit)) is not None:
            logits, probabilities = one[0](_BOTH, one[1], None)
            return _prediction(logits.tolist()[0], probabilities.tolist()[0])
        predictions = list(self.predictions(digit))
        if len(predictions) != 1:
            raise DigitError(f"these are {len(predictions)} digits, and classify takes one; use predict for many")
        return predictions[0]

    def predictions(self, X: ArrayLike) -> Iterator[Prediction]:
        """Label and probabilities of each of the digits `X`, computed as they are asked for."""
        for _, (logits, probabilities) in self._chunks(as_batch(X), _BOTH):
            yield from map(_prediction, logits.tolist(), probabilities.tolist())

    def replay(self) -> list[Comparison]:
        """Compute the golden digits of each model file here and now, and compare them with what was trained.

        Raises:
            ArtifactError: one carries none, or cannot compute them.
        """
        return [replace(artifact.replay(), name=artifact.name) for artifact in self._opened().values()]

    @property
    def digests(self) -> list[str]:
        """SHA-256, in hex, of each model file it was made from."""
        return [artifact.sha256 for artifact in self._opened().values()]

    def close(self) -> None:
        """Free the model and onnxruntime's session; closing twice is fine."""
        self._models = []
        self._uint8_run = self._float32_run = None
        self._artifacts: dict[str, Artifact] = {}
        self.__dict__.pop("artifact", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        """Tell the model and how it is run."""
        if not self._models:
            return "<Classifier, closed>"
        models = " and ".join(name for _, name in self._models)
        providers = ", ".join(map(str, self._settings.providers))
        return f"<Classifier of {models}, {self._settings.threads} thread(s), {providers}>"

    def __getstate__(self) -> dict[str, Any]:
        """Pack the model's own bytes: the session is built again where they arrive."""
        if self._settings.session_options is not None:
            raise OptionError(
                "a classifier with session_options cannot be pickled, for onnxruntime's cannot; "
                "use threads= and providers=, or make the classifier in each process"
            )
        return {"models": self._models, "settings": self._settings, "trusted": self._trusted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._models, self._settings, self._trusted = state["models"], state["settings"], state["trusted"]
        self.classes_ = np.array(CLASSES, dtype=np.int64)
        self._open()

    def fit(self, *_: object, **__: object) -> NoReturn:
        """Refuse: scikit-learn asks every estimator for `fit`, and this one comes trained.

        Raises:
            OptionError: always.
        """
        raise OptionError("this classifier comes trained; wrap it in sklearn.frozen.FrozenEstimator to pass it on")

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
        """Open every model, and keep the inner run of each session: the outer one checks again what is checked."""
        opened = [
            Artifact.from_bytes(data, name, settings=self._settings, trusted_contract=self._trusted)
            for data, name in self._models
        ]
        self._artifacts = {artifact.dtype: artifact for artifact in opened}
        if opened:
            self.artifact = opened[0]
        self._uint8_run, self._float32_run = (_inner_run(self._artifacts.get(dtype)) for dtype in ("uint8", "float32"))
        _alive.add(self)

    def _one_digit(self, X: ArrayLike) -> tuple[_Run, dict[str, Any]] | None:
        """The fast road: what to run on one ready digit, or None for whatever needs a longer look."""
        if type(X) is not np.ndarray or X.shape not in _ONE_DIGIT:
            return None
        if X.dtype == _UINT8:
            run = self._uint8_run
        elif X.dtype == _FLOAT32 and is_unit_float32(X):
            run = self._float32_run
        else:
            return None
        return run and (run, {"pixels": X.reshape(1, PIXELS)})

    def _batch(self, X: ArrayLike, outputs: list[str]) -> NDArray[np.float32]:
        digits = as_batch(X)
        result = np.empty((len(digits), len(CLASSES)), np.float32)
        for start, (values,) in self._chunks(digits, outputs):
            result[start : start + len(values)] = values
        return result

    def _chunks(self, digits: NDArray[Any], outputs: list[str]) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        """Check and compute `[N, 784]` of any accepted dtype, a cache-full at a time."""
        wanted = "float32" if digits.dtype.kind == "f" else "uint8"
        artifact = self._opened().get(wanted) or self.artifact
        run = _inner_run(artifact)
        ready = digits.dtype == _UINT8 and artifact.dtype == "uint8"  # every value of it is an intensity
        for start in range(0, len(digits), CHUNK):
            self._opened()  # it may have been closed since the last chunk was asked for
            chunk = digits[start : start + CHUNK]
            yield start, run(outputs, {"pixels": chunk if ready else artifact.prepare(chunk)}, None)

    def _opened(self) -> dict[str, Artifact]:
        """The models, opened where they are not."""
        if not self._artifacts:
            if not self._models:
                raise ClosedError("this classifier is closed; make another one")
            self._open()  # in a forked child, at first use
        return self._artifacts

    def forget_session(self) -> None:
        """Open the model anew at next use, as a forked child must: the session's threads and locks stayed behind."""
        if self._artifacts:
            for artifact in self._artifacts.values():  # to free a session may mean to join threads that are not there
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(artifact))  # and the interpreter frees all that it can
            self._uint8_run = self._float32_run = None
            self._artifacts = {}


_alive: WeakSet[Classifier] = WeakSet()


def _after_fork() -> None:
    for classifier in _alive:
        classifier.forget_session()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _inner_run(artifact: Artifact | None) -> Any:
    """The run of onnxruntime's C++ session, which its Python session wraps; the wrapper, should that ever change.

    Of a model that was taken on trust, a run whose answers are checked.
    """
    if artifact is None:
        return None
    if not artifact.metadata:
        return artifact.run_checked
    return getattr(artifact.session, "_sess", artifact.session).run


def _prediction(logits: list[float], probabilities: list[float]) -> Prediction:
    label = logits.index(max(logits))  # as predict does: probabilities can tie where logits do not
    return Prediction(label, probabilities[label], tuple(probabilities))


def _read_models(model: Model | None) -> list[tuple[bytes, str]]:
    """Bytes and name of each graph that `model` stands for."""
    if model is None:
        return [
            _read_file(BUNDLED, "the bundled model"),
            _read_file(BUNDLED.with_suffix(".uint8.onnx"), "its uint8 twin"),
        ]
    if isinstance(model, bytes):
        return [(model, f"the model of {len(model):,} bytes")]
    if not isinstance(model, (str, os.PathLike)):
        raise OptionError(f"the model is a {type(model).__name__}, and must be a path, bytes or a published folder")
    with reading(model, WANTED):
        is_folder = Path(model).is_dir()
    return _read_folder(Path(model)) if is_folder else [_read_file(model, str(model))]


def _read_file(path: str | os.PathLike[str], name: str) -> tuple[bytes, str]:
    return read_whole(path, limit=SIZE_LIMIT, wanted=WANTED), name


def _read_folder(folder: Path) -> list[tuple[bytes, str]]:
    from mnist_runtime.model.manifest import read_manifest

    manifest = read_manifest(folder)
    entries = [entry for form in ("onnx", "onnx-uint8") if (entry := manifest.find(form))]
    if not entries:
        raise ArtifactError(f"{folder} was published without an ONNX model; export again with --format onnx")
    return [(manifest.read(entry.file), str(folder / entry.file)) for entry in entries]
