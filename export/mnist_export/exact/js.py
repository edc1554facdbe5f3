"""JavaScript of an exact network: the template mnist.mjs beside this file, with the network printed into it."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_export.exact.network import Convolution, ExactNetwork
from mnist_export.exact.stage import Stage, golden_checksums, pack, stages
from mnist_runtime.digits import Intensities
from mnist_runtime.model import program
from mnist_runtime.verdicts import Thresholds

_TEMPLATE = Path(__file__).with_name("mnist.mjs")
_PLACE = re.compile(r"^const NETWORK = .*;$", re.MULTILINE)


def to_module(
    network: ExactNetwork, golden: Intensities, thresholds: Thresholds, *, checkpoint: str, logits_sha256: str
) -> bytes:
    """Print `network` as `mnist.mjs`.

    Args:
        network: Network to print.
        golden: Digits of the self-test, uint8 `[N, 784]`.
        thresholds: Thresholds of the verdicts.
        checkpoint: SHA-256 of the checkpoint that the network was made from.
        logits_sha256: SHA-256 of the logits of the validation digits.
    """
    printed = {
        "checkpoint": checkpoint,
        "logitsSha256": logits_sha256,
        "goldenSha256": program.logits_sha256(network.logits(golden).astype(np.int32)),
        "exponent": network.exponent,
        "thresholds": {"confidence": sorted(thresholds.confidence.items()), "odds": thresholds.odds},
        "layers": [_layer(stage, bound) for stage, bound in zip(stages(network), network.bounds(), strict=True)],
        "golden": base64.b64encode(pack(golden)).decode("ascii"),
        "checksums": golden_checksums(network, golden),
    }
    fields = ",\n".join(f"  {name}: {_literal(value)}" for name, value in printed.items())
    literal = f"const NETWORK = {{\n{fields},\n}};"
    return _PLACE.sub(lambda _: literal, _TEMPLATE.read_text("ascii"), count=1).encode("ascii")


def _literal(value: Any) -> str:
    """Return JSON, which is JavaScript, with one line for each element of a list."""
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + "".join(f"    {json.dumps(each)},\n" for each in value) + "  ]"


def _layer(stage: Stage, bound: int) -> dict[str, Any]:
    layer = stage.layer
    step = layer if isinstance(layer, Convolution) else Convolution(layer.weight, layer.bias, np.zeros(0, np.uint8))
    return {
        "about": stage.description,
        "input": _channels_last(stage.inputs),
        "output": _channels_last(stage.outputs),
        "kernel": list(stage.weight.shape[1:3]),
        "stride": step.stride,
        "padding": step.padding,
        "pool": step.pool,
        "poolStride": step.pool_stride,
        "bound": bound,
        "weight": _base64(stage.weight),
        "bias": _base64(layer.bias.astype("<i4")),
        "shift": "" if layer.shift is None else _base64(layer.shift),
        "checksum": stage.checksum,
    }


def _channels_last(shape: tuple[int, int, int]) -> list[int]:
    channels, height, width = shape
    return [height, width, channels]


def _base64(values: NDArray[np.integer[Any]]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
