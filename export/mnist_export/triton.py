"""The format `triton`: a model repository for NVIDIA's server, `tritonserver --model-repository artifacts/triton`.

The layout and the fields of config.pbtxt are those of Triton's documentation, "Model Repository" and "Model
Configuration": https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_export.onnx import Onnx
from mnist_export.publishing import File
from mnist_runtime.digits import CLASSES, PIXELS

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle

CONFIG_FILE = "triton/mnist/config.pbtxt"

MAX_BATCH_SIZE = 1024
"""Digits that the server may batch in one call: 3 MB of float32 pixels."""
MAX_QUEUE_DELAY = 100
"""Microseconds that a request may wait to be batched with others."""


class Triton(Onnx):
    """The bytes of the format `onnx` as version 1 of the model `mnist`, and its configuration."""

    def side_files(self, bundle: "Bundle") -> Sequence[File]:
        """Return the configuration of the model."""
        config = to_config(knows_no_digit=bundle.knows_no_digit)
        return [File(CONFIG_FILE, config, {"format": "triton-config", "input": None})]


def to_config(*, knows_no_digit: bool) -> bytes:
    """Return the model's description for Triton, which adds the batch dimension and batches requests.

    Triton has no tensors of the batch dimension alone, so clients get `no_digit` as `[batch, 1]`.
    """
    names = ("logits", "probabilities")
    outputs = [f'{{ name: "{name}" data_type: TYPE_FP32 dims: [ {len(CLASSES)} ] }}' for name in names]
    if knows_no_digit:
        outputs.append('{ name: "no_digit" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }')
    listed = ",\n  ".join(outputs)
    return f"""\
name: "mnist"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{ name: "pixels" data_type: TYPE_FP32 dims: [ {PIXELS} ] }}
]
output [
  {listed}
]
dynamic_batching {{
  max_queue_delay_microseconds: {MAX_QUEUE_DELAY}
}}
""".encode()
