"""Comparison of computed logits with reference logits, each within its own tolerance.

The exporter derives the tolerances (`mnist_export.bounds`); a device only compares.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import CLASSES, PIXELS, Intensities
from mnist_runtime.errors import first_line
from mnist_runtime.io.arrays import StoredArray

UNIT_ROUNDOFF = 2.0**-24
"""Unit roundoff of float32."""
SMALLEST_NORMAL = 2.0**-126
"""Smallest normal float32."""
_GOLDEN_LIMIT = 2**26
"""Largest size in bytes of the unpacked golden digits of a file."""

Logits = NDArray[np.float64]

TEN = len(CLASSES)
"""Number of logits of digits; an eleventh logit stands for no digit."""


@dataclass(frozen=True)
class Reference:
    """Digits, and the logits that a faithful float32 implementation may compute for them."""

    digits: Intensities
    """uint8 `[N, 784]`."""
    logits: Logits
    """float64 `[N, 10]` or `[N, 11]`, computed in float64 from the trained weights."""
    tolerance: Logits
    """float64, as `logits`: the largest |float32 logit - reference| that counts as rounding."""
    certified: NDArray[np.bool_]
    """bool `[N]`: no order of summation, on any machine, can change this digit's label."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of each digit, int64 `[N]`."""
        labels: NDArray[np.int64] = self.logits[:, :TEN].argmax(axis=1)
        return labels

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to_text(self) -> str:
        """Pack as base64 of a compressed .npz, for an ONNX metadata property."""
        packed = io.BytesIO()
        arrays: Any = {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}
        np.savez_compressed(packed, **arrays)
        return base64.b64encode(packed.getvalue()).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Unpack a reference packed by `to_text`.

        Raises:
            ValueError: it is not a packed reference, or claims to unpack to more than 64 MiB.
        """
        try:
            reference = cls(*_unpacked(text, [field.name for field in fields(cls)]))
        except Exception as error:  # damage makes zipfile raise anything
            raise ValueError(f"not a packed reference: {first_line(error)}") from error
        reference._check()
        return reference

    def _check(self) -> None:
        n = len(self.digits)
        width = TEN + (self.logits.shape == (n, TEN + 1))
        wanted = [(np.uint8, (n, PIXELS)), (np.float64, (n, width)), (np.float64, (n, width)), (np.bool_, (n,))]
        for field, (dtype, shape) in zip(fields(self), wanted, strict=True):
            array = getattr(self, field.name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{field.name} are {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        if not (np.isfinite(self.logits).all() and np.isfinite(self.tolerance).all() and n):
            raise ValueError("there are none, or some are not finite")
        if (self.tolerance < 0).any():
            raise ValueError("a tolerance is negative")


def _unpacked(text: str, names: Sequence[str]) -> Iterator[NDArray[Any]]:
    """Read the arrays of an .npz in base64; memory grows with the bytes present, not with a header's claim."""
    with ZipFile(io.BytesIO(base64.b64decode(text, validate=True))) as archive:
        if sum(member.file_size for member in archive.infolist()) > _GOLDEN_LIMIT:
            raise ValueError(f"they unpack to more than {_GOLDEN_LIMIT >> 20} MiB")
        for name in names:
            with archive.open(f"{name}.npy") as stream:
                yield StoredArray.of_stream(stream, name).array()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result for one set of digits."""

    name: str
    """Name of the set of digits."""
    count: int
    worst_error: float
    """Largest |logit - reference|."""
    worst_error_at: tuple[int, int] | None
    """Digit and class of the largest error; None if nothing could be compared."""
    worst_share: float
    """Largest |logit - reference| / tolerance; fails above 1."""
    worst_share_at: tuple[int, int] | None
    agreeing: int
    """Number of labels equal to the reference's."""
    certified: int
    """Number of labels that no rounding can change."""
    failures: tuple[str, ...]
    """Reasons for a failure, one sentence each; empty if the comparison passed."""

    @property
    def passed(self) -> bool:
        """True if all outputs are within rounding of the reference."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict; an infinite error becomes None."""
        finite = {key: None if value == math.inf else value for key, value in asdict(self).items()}
        return {**finite, "passed": self.passed}


def compare(
    name: str,
    reference: Reference,
    logits: NDArray[Any],
    probabilities: NDArray[Any] | None = None,
    no_digit: NDArray[Any] | None = None,
) -> Comparison:
    """Compare the outputs of a model with a reference.

    Shapes and dtypes must be equal, every number finite: nothing broadcasts, and NaN equals nothing.

    Args:
        name: Name of the set of digits.
        reference: Logits that may be computed.
        logits: float32 `[N, 10]` beside `probabilities`, else all logits of the reference.
        probabilities: float32 `[N, 10]`.
        no_digit: float32 `[N]`, which a reference of eleven logits demands beside `probabilities`.
    """
    count, all_logits = len(reference), reference.logits
    wanted = all_logits if probabilities is None else all_logits[:, :TEN]
    failures = list(_misfit("logits", logits, wanted.shape))
    if probabilities is not None:
        failures += _misfit("probabilities", probabilities, wanted.shape)
        if no_digit is not None or all_logits.shape[1] > TEN:
            failures += _misfit("no_digit", no_digit, (count,) if all_logits.shape[1] > TEN else None)
    if failures:
        return incomparable(name, count, *failures)
    tolerance = reference.tolerance[:, : wanted.shape[1]]
    error = np.abs(logits - wanted)
    share = _share(error, tolerance)
    agree = logits[:, :TEN].argmax(axis=1) == reference.labels
    failures += _excess("logit", share, error)
    if probabilities is not None:
        error_p = np.abs(probabilities - softmax(wanted))
        failures += _excess("probability", _share(error_p, probability_tolerance(wanted, tolerance)), error_p)
    if no_digit is not None:
        error_p = np.abs(no_digit - softmax(all_logits)[:, TEN])[:, None]
        allowed = probability_tolerance(all_logits, reference.tolerance)[:, TEN:]
        failures += _excess("probability of no digit", _share(error_p, allowed), error_p)
    lost = np.flatnonzero(reference.certified & ~agree)
    if len(lost):
        failures.append(f"{len(lost)} certified labels differ, the first at digit {lost[0]}")
    return Comparison(
        name,
        count,
        float(error.max(initial=0)),
        _place(error),
        float(share.max(initial=0)),
        _place(share),
        int(agree.sum()),
        int(reference.certified.sum()),
        tuple(failures),
    )


def incomparable(name: str, count: int, *failures: str) -> Comparison:
    """Return the failed comparison of outputs that cannot be compared, with the reasons."""
    return Comparison(name, count, math.inf, None, math.inf, None, 0, 0, failures)


def softmax(logits: Logits) -> Logits:
    """Compute probabilities, float64 `[N, K]`, from logits, float64 `[N, K]`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def probability_tolerance(logits: Logits, tolerance: Logits) -> Logits:
    """Bound the error of a float32 softmax, float64 `[N, K]`, of logits float64 `[N, K]` within their tolerances.

    A logit error of at most t moves a probability by a factor of at most exp(2t). Computing it then rounds, as relative
    errors in units of u: each difference d = logit - max, |d| after exp, at most `spread` in the term and in the sum;
    exp itself, 4 (two units in the last place) in each; K - 1 additions; the division, or a reciprocal and a product,
    2. That makes 2 spread + 20 to first order for K = 11; 32 leaves room for the second, and 2t for the spread of the
    computed logits. Exponentials below the smallest normal float32 may be flushed to 0. No probability is off by more
    than 1.
    """
    t = np.minimum(tolerance.max(axis=1, keepdims=True), 256.0)  # exp(512) is finite, and far beyond 1/u
    spread = np.ptp(logits, axis=1, keepdims=True) + 2 * t
    rounding = (2 * spread + 32) * UNIT_ROUNDOFF
    relative = np.expm1(2 * t) + np.exp(2 * t) * rounding
    return np.asarray(np.minimum(softmax(logits) * relative + SMALLEST_NORMAL, 1.0))


def _place(errors: Logits) -> tuple[int, int] | None:
    """Return digit and class of the largest error of `[N, K]`."""
    if not errors.size:
        return None
    digit, label = np.unravel_index(errors.argmax(), errors.shape)
    return int(digit), int(label)


def _misfit(what: str, array: NDArray[Any] | None, shape: tuple[int, ...] | None) -> Iterator[str]:
    """Yield why `array` is not finite float32 of `shape`; None means a missing output."""
    if array is None or shape is None or array.dtype != np.float32 or array.shape != shape:
        found = "missing" if array is None else f"{array.dtype} {array.shape}"
        yield f"{what} are {found}, not {'expected' if shape is None else f'float32 {shape}'}"
    elif not np.isfinite(array).all():
        rows = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        yield f"{what} hold NaN or infinity, first at digit {np.flatnonzero(~rows)[0]}"


def _share(error: Logits, tolerance: Logits) -> Logits:
    """Divide the error by its tolerance; 0/0 is 0, because an exact logit is within a tolerance of 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, error / tolerance)


def _excess(what: str, share: Logits, error: Logits) -> Iterator[str]:
    place = _place(share)
    if place and not share[place] <= 1:  # NaN, the largest of all, is no share
        digit, label = place
        class_ = f" of class {label}" if share.shape[1] > 1 else ""
        yield (
            f"the {what}{class_} for digit {digit} is off by {error[place]:.2e}, "
            f"{share[place]:.3g} times what rounding allows"
        )
