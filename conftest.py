"""Collection of the examples in docstrings."""

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Import no module of ours without an example, because all of them import torch, onnxscript and Ray for seconds."""
    is_module = collection_path.suffix == ".py" and not collection_path.is_relative_to(Path(__file__).parent / "tests")
    return True if is_module and ">>> " not in collection_path.read_text(encoding="utf-8") else None
