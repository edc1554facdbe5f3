"""The format `triton`: a model repository for NVIDIA's server, `tritonserver --model-repository artifacts/triton`.

The layout and the fields of config.pbtxt are those of Triton's documentation, "Model Repository" and "Model
Configuration": https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_export.onnx import Onnx
from mnist_export.publishing import File
from mnist_runtime.digits import PIXELS
from mnist_runtime.model.comparison import TEN

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
        outputs = [output.name for output in bundle.graph.graph.output]
        return [File(CONFIG_FILE, to_config(outputs), {"format": "triton-config", "input": None})]


def to_config(outputs: Sequence[str]) -> bytes:
    """Return the description of a model of these outputs for Triton, which adds the batch dimension.

    Triton has no tensors of the batch dimension alone, so clients get `no_digit` as `[batch, 1]`.
    """
    shapes = {"no_digit": "dims: [ 1 ] reshape: { shape: [ ] }"}
    listed = ",\n  ".join(
        f'{{ name: "{name}" data_type: TYPE_FP32 {shapes.get(name, f"dims: [ {TEN} ]")} }}' for name in outputs
    )
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
