"""The formats of exact networks: one network, printed in several languages; every print must compute equal logits."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mnist_export.errors import ExportError
from mnist_export.exact.c import to_header
from mnist_export.exact.js import to_module
from mnist_export.exact.network import ExactNetwork
from mnist_export.exact.onnx import OPSET, to_graph
from mnist_export.exact.rounding import CALIBRATION_DIGITS, exact
from mnist_export.formats import Recipe
from mnist_export.gate import Compute
from mnist_export.golden import GOLDEN, VALIDATION, Expected, Proof
from mnist_export.onnx import Onnx
from mnist_export.publishing import File
from mnist_export.risk import choose_thresholds
from mnist_runtime.digits import PIXELS, Intensities, as_intensities
from mnist_runtime.model.comparison import Reference
from mnist_runtime.model.header import Header
from mnist_runtime.model.javascript import JavaScript, OfflinePage
from mnist_runtime.model.program import Program, logits_sha256
from mnist_runtime.page import app_files, offline
from mnist_train.data.bundled import load_split

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle


class OnnxExact(Onnx):
    """The exact network as ONNX of opset 13, for raw uint8 pixels."""

    def graph(self, bundle: "Bundle") -> ModelProto:
        """Return the graph of the exact network."""
        return to_graph(bundle.once(network))

    def properties(self, bundle: "Bundle", expected: Expected) -> dict[str, str]:
        """Return the metadata, with the exponent that turns logits back into integers."""
        return {**super().properties(bundle, expected), "exponent": str(bundle.once(network).exponent)}

    def expect(self, bundle: "Bundle") -> Expected:
        """Return the logits of the exact network, each without tolerance."""
        return bundle.once(expect_exactly)

    def describe(self, bundle: "Bundle") -> Mapping[str, Any]:
        """Return what an engine needs to load the file, and the digest that two machines compare."""
        return {**super().describe(bundle), "opset": OPSET, **_description(bundle)}


class _Printed(Recipe):
    """The exact network as a program, which the gate runs before it is published."""

    def expect(self, bundle: "Bundle") -> Expected:
        """Return the logits of the exact network, each without tolerance."""
        return bundle.once(expect_exactly)

    def describe(self, bundle: "Bundle") -> Mapping[str, Any]:
        """Return the digest that two machines compare."""
        return _description(bundle)

    def load(self, data: bytes) -> Compute:
        """Make a program of `data`, run its self-test, and return the function that runs it as a process."""
        program = self.program(data)
        if program.selftest():
            raise ExportError(f"its self-test returns {program.selftest()}")

        def compute(digits: Intensities) -> list[NDArray[np.float32]]:
            logits, labels = program.answers(digits)
            if len(odd := np.flatnonzero(labels != program.rule(logits))):
                raise ExportError(f"its prediction of digit {odd[0]} is {labels[odd[0]]}, against its own threshold")
            return [np.ldexp(logits.astype(np.float32), program.exponent)]

        return compute

    @abstractmethod
    def program(self, data: bytes) -> Program:
        """Return the program of an artifact."""


class C(_Printed):
    """The exact network as a C header."""

    def build(self, bundle: "Bundle", expected: Expected) -> bytes:
        """Print the header."""
        return to_header(
            bundle.once(network),
            expected.sets[GOLDEN].digits,
            expected.thresholds,
            checkpoint=bundle.checkpoint.sha256,
            logits_sha256=_description(bundle)["logits_sha256"],
        )

    def program(self, data: bytes) -> Program:
        """Compile the header."""
        return Header(data, self.format.file)


class Js(_Printed):
    """The exact network as a JavaScript module."""

    def build(self, bundle: "Bundle", expected: Expected) -> bytes:
        """Print the module."""
        return to_module(
            bundle.once(network),
            expected.sets[GOLDEN].digits,
            expected.thresholds,
            checkpoint=bundle.checkpoint.sha256,
            logits_sha256=_description(bundle)["logits_sha256"],
        )

    def program(self, data: bytes) -> Program:
        """Run the module in node."""
        return JavaScript(data, self.format.file)


class Html(Js):
    """The page of mnist-serve with the JavaScript module inside."""

    def build(self, bundle: "Bundle", expected: Expected) -> bytes:
        """Print the module into the page."""
        return offline(super().build(bundle, expected))

    def side_files(self, bundle: "Bundle") -> Sequence[File]:  # noqa: ARG002
        """Return the files that let a browser install the page from where it is served."""
        files = app_files(self.format.file)
        return [File(name, data, {"format": "app", "input": None}) for name, data in files.items()]

    def program(self, data: bytes) -> Program:
        """Run the module that is inside the page in node."""
        return OfflinePage(data, self.format.file)


def network(bundle: "Bundle") -> ExactNetwork:
    """Round the trained module, calibrated on training digits.

    Raises:
        ExportError: the module holds a layer that cannot be made exact.
    """
    digits = as_intensities(load_split("train").images[:CALIBRATION_DIGITS].reshape(-1, PIXELS))
    return exact(bundle.checkpoint.module, digits)


def expect_exactly(bundle: "Bundle") -> Expected:
    """Return what every print of the exact network must compute for all sets of digits: its integers, scaled."""
    rounded = bundle.once(network)

    def reference(digits: Intensities) -> Reference:
        logits = np.ldexp(rounded.logits(digits).astype(np.float64), rounded.exponent)
        return Reference(digits, logits, np.zeros_like(logits), np.ones(len(digits), np.bool_))

    sets = {name: reference(whole.digits) for name, whole in bundle.expected.sets.items()}
    unit = 2.0**rounded.exponent
    thresholds = choose_thresholds(sets[VALIDATION].logits, bundle.expected.labels, unit)
    return replace(bundle.expected, sets=sets, thresholds=thresholds, proof=Proof("exact", "graph"), margin=math.inf)


def _description(bundle: "Bundle") -> dict[str, Any]:
    rounded = bundle.once(network)
    logits = bundle.once(expect_exactly).sets[VALIDATION].logits
    integers = np.ldexp(logits, -rounded.exponent).astype(np.int32)
    return {"exponent": rounded.exponent, "largest_sums": rounded.bounds(), "logits_sha256": logits_sha256(integers)}
