"""Triton: a model repository for NVIDIA's inference server, `tritonserver --model-repository artifacts/triton`.

The layout and the fields of config.pbtxt are those of Triton's documentation, "Model Repository" and "Model
Configuration": https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/
"""

from mnist_runtime.digits import CLASSES, PIXELS

MODEL_FILE = "triton/mnist/1/model.onnx"
"""Version 1 of the model `mnist`: the same bytes as mnist.onnx."""
CONFIG_FILE = "triton/mnist/config.pbtxt"

MAX_BATCH_SIZE = 1024
"""Digits that the server may join into one call: 3 MB of float32 pixels."""
MAX_QUEUE_DELAY = 100
"""Microseconds that a request may wait for others to join it."""


def to_config() -> bytes:
    """Describe mnist.onnx to Triton: the batch is a dimension that the server adds, and requests are joined."""
    return f"""\
name: "mnist"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{ name: "pixels" data_type: TYPE_FP32 dims: [ {PIXELS} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {len(CLASSES)} ] }},
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {len(CLASSES)} ] }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {MAX_QUEUE_DELAY}
}}
""".encode()
