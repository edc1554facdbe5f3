"""mnist-export and export(): every format of several modules has the same bytes each time, or fails in one sentence."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mnist_export import export
from mnist_export.cli import export as command
from mnist_export.errors import ExportError, UnknownFormatError
from mnist_export.formats import ALL, FORMATS
from mnist_export.gate import ParityError
from mnist_export.pt2 import to_pt2
from mnist_runtime.digits import as_digits
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.manifest import read_manifest
from mnist_runtime.parity.findings import verify_folder
from mnist_train import checkpoint as checkpoints
from mnist_train.models import MODELS, build

EXPORTER = """
import sys
folder, *beside = sys.argv[1:]
sys.path[:0] = beside
import torch, command_server, networks
from mnist_export import export
from mnist_export.formats import FORMATS
command_server.remember_operators()
for name in ("Perceptron", "Convolutions"):
    torch.manual_seed(0)
    formats = [format.name for format in FORMATS.values() if name == "Perceptron" or not format.lossy]
    export(getattr(networks, name)(), formats, folder + "/" + name, max_accuracy_drop=100)
"""


@pytest.fixture(scope="module")
def twice(run, make_once) -> list[Path]:
    """Two exports of two networks in two processes, folders and hash seeds."""
    beside = Path(__file__).parent

    def twice(both: Path) -> None:
        for folder, env in ((both / "one", {}), (both / "two", {"PYTHONHASHSEED": "2"})):
            folder.mkdir()
            done = run("python", "-c", EXPORTER, folder, beside, beside.parent, env=env, cwd=folder, timeout=300)
            assert done.returncode == 0, done.stderr
            assert (done.stdout, done.stderr) == (b"", b""), "messages of torch's exporters must not reach the user"

    both = make_once("twice", twice)
    return [both / "one", both / "two"]


@pytest.mark.parametrize("network", ["Perceptron", "Convolutions"])
def test_equal_modules_give_equal_bytes_in_every_format(twice: list[Path], network: str):
    one, two = (read_manifest(folder / network) for folder in twice)
    formats = [name for name, format_ in FORMATS.items() if network == "Perceptron" or not format_.lossy]
    beside = {"triton-config"} | ({"app"} if "html" in formats else set())
    assert {entry.format for entry in one.files.values()} == {*formats, *beside}
    assert {file: entry.sha256 for file, entry in one.files.items()} == {
        file: entry.sha256 for file, entry in two.files.items()
    }


def test_equal_checkpoints_give_equal_bytes_in_every_format(everything: Path, exported: Path):
    whole, three = read_manifest(everything), read_manifest(exported)
    for file, entry in three.files.items():
        assert whole.files[file].sha256 == entry.sha256
    assert whole.files["triton/mnist/1/model.onnx"].sha256 == three.files["mnist.onnx"].sha256


def test_no_file_carries_traces_of_the_machine(twice: list[Path], everything: Path):
    told = [str(Path(torch.__file__).parent), "site-packages", "stack_trace", "pkg.torch", ".debug_pkl"]
    told += [*map(str, (everything, *twice)), f"{Path.home()}/", "serialization_id"]
    leaks = re.compile("|".join(map(re.escape, told)).encode())
    for folder in (everything, twice[0]):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert not leaks.search(path.read_bytes()), path


def test_graphs_are_old_enough_self_contained_and_free_of_documentation(everything: Path, twice: list[Path]):
    for path in [*everything.rglob("*.onnx"), *twice[0].rglob("*.onnx")]:
        model = onnx.load(path, load_external_data=False)
        opset = 13 if "exact" in path.name else 18
        assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", opset)])
        graph = model.graph
        assert not any(tensor.external_data or tensor.data_location for tensor in graph.initializer)
        parts = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
        assert not any(part.doc_string or part.metadata_props for part in parts)
    assert not list(everything.rglob("*.data"))


@pytest.mark.parametrize("network", ["Perceptron", "Convolutions"])
def test_modules_that_are_not_linear_have_analytic_bounds(twice: list[Path], network: str):
    assert not any(finding.problem for finding in verify_folder(twice[0] / network))
    records = read_manifest(twice[0] / network).document["files"]
    assert records["mnist.onnx"]["bound"] == "analytic"
    assert records["mnist.torchscript.pt"]["bit_equal"] == 1


def _operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_scale_of_raw_pixels_is_folded_where_a_linear_layer_meets_them(twice: list[Path]):
    folded = twice[0] / "Perceptron" / "mnist.uint8.onnx"
    assert _operators(folded)[:2] == ["Cast", "Gemm"]
    assert "Mul" not in _operators(folded)
    assert _operators(twice[0] / "Convolutions" / "mnist.uint8.onnx")[:3] == ["Cast", "Mul", "Reshape"]


@pytest.mark.parametrize("network", ["Perceptron", "Convolutions"])
def test_raw_pixels_give_bit_identical_logits(twice: list[Path], network: str, validation):
    digits = as_digits(validation.images[:1000])
    floats, raw = (Artifact.load(twice[0] / network / f"mnist{kind}.onnx") for kind in ("", ".uint8"))
    assert np.array_equal(floats.run(digits, "logits"), raw.run(digits, "logits"))


def test_the_triton_repository_describes_the_inputs_and_outputs_of_the_model(everything: Path):
    config = (everything / "triton/mnist/config.pbtxt").read_text()
    assert 'platform: "onnxruntime_onnx"' in config
    assert "dynamic_batching" in config
    model = onnx.load(everything / "triton/mnist/1/model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert f'name: "{value.name}" data_type: TYPE_FP32 dims: [ {dims[1].dim_value} ]' in config


@pytest.mark.parametrize(("model", "opset"), [("linear", 13), ("linear", 17), ("cnn", 13)])
def test_older_opsets_compute_the_same(tmp_path: Path, model: str, opset: int):
    torch.manual_seed(0)
    export(build(model), ["onnx", "onnx-uint8"], tmp_path, opset=opset)
    assert not any(finding.problem for finding in verify_folder(tmp_path))
    for path in tmp_path.glob("*.onnx"):
        assert onnx.load(path).opset_import[0].version == opset
    assert read_manifest(tmp_path).document["files"]["mnist.onnx"]["opset"] == opset


def test_the_manifest_declares_the_oldest_onnxruntime(everything: Path):
    for record in read_manifest(everything).document["files"].values():
        assert record.get("onnxruntime", ">=1.15.1") == ">=1.15.1"


class _Scripted(nn.Module):
    """A module that computes something else in TorchScript, as if the exporter had a fault."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(784, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.lin(pixels)
        if torch.jit.is_scripting():
            logits = logits * 1.001
        return logits


def test_one_failed_artifact_stops_the_export_and_keeps_the_old_files(tmp_path: Path, checkpoint):
    export(checkpoint, ["onnx"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(ParityError, match=r"torchscript\.pt does not compute what was trained"):
        export(_Scripted(), ["onnx", "torchscript"], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_shows_the_worst_digit_of_an_artifact_that_fails(tmp_path, monkeypatch, capsys, options):
    monkeypatch.setitem(MODELS, "scripted", _Scripted)
    path = tmp_path / "mnist.safetensors"
    checkpoints.save(path, _Scripted(), {"model": "scripted"})
    arguments = [str(path), "--format", "torchscript", "--output-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        command.main([*arguments, *options])
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert "Error: mnist.torchscript.pt does not compute what was trained" in said.err
    if options:
        (verdict,) = json.loads(said.out)
        assert (verdict["format"], verdict["published"], verdict["accuracy"]) == ("torchscript", False, None)
    else:
        assert "times what rounding allows" in said.out
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_verdicts_can_be_printed_as_json(run, trained: Path, tmp_path: Path):
    result = run("mnist-export", trained / "mnist.safetensors", "--format", "onnx", "--json", "--output-dir", tmp_path)
    (said,) = json.loads(result.stdout)
    assert said["published"]
    assert said["parity"][2]["certified"] == 10_000
    assert said["accuracy"] == said["module_accuracy"]


def test_an_unknown_format_suggests_the_nearest(run, tmp_path: Path):
    result = run("mnist-export", "--format", "onnx-unit8", "--output-dir", tmp_path)
    assert result.returncode == 2
    assert f"did you mean 'onnx-uint8'? There are {', '.join([*FORMATS, ALL])}." in result.stderr.decode()
    with pytest.raises(UnknownFormatError, match="did you mean 'torchscript'"):
        export(nn.Linear(784, 10), ["torch-script"], tmp_path)


def test_a_module_that_is_no_digit_classifier_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match=r"for \(2, 784\) it returns torch.float32 \(2, 9\)"):
        export(nn.Linear(784, 9), ["onnx"], tmp_path)
    with pytest.raises(ExportError, match=r"for \(2, 784\) it fails \(RuntimeError"):
        export(nn.Linear(783, 10), ["onnx"], tmp_path)
    broken = nn.Linear(784, 10)
    nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        export(broken, ["onnx"], tmp_path)


class _Untraceable(nn.Module):
    """A module that branches on the pixels, which no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(784, 10)

    def forward(self, pixels):
        return self.lin(pixels) if bool(pixels.sum() > len({3})) else self.lin(-pixels)


@pytest.mark.parametrize("form", ["onnx", "torchscript", "pt2"])
def test_a_module_that_an_exporter_cannot_follow_is_refused(tmp_path: Path, form: str):
    with pytest.raises(ExportError, match=r"cannot follow this module: .*; change the module, or leave out .*--format"):
        export(_Untraceable(), [form], tmp_path)


class _Speechless(nn.Module):
    """A module that raises an error without a message."""

    def forward(self, pixels):
        raise AssertionError


def test_an_error_without_a_message_is_named_by_its_type():
    with pytest.raises(ExportError, match=r"torch\.export cannot follow this module: AssertionError"):
        to_pt2(_Speechless())


def test_exporting_a_module_leaves_it_as_it_was(tmp_path: Path, networks):
    module = networks.Perceptron().train()
    export(module, ["onnx"], tmp_path)
    assert module.training
