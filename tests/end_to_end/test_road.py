"""The whole way from training to a device without torch, with real commands in real processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_train_export_prove_infer(run, tmp_path):
    """Run four commands with their defaults in an empty folder."""
    for command in (["mnist-train"], ["mnist-export"], ["mnist-parity"], ["mnist-data", "save", "0", "digit.npy"]):
        result = run(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    answer = run("mnist-infer", "digit.npy", "--format", "json", cwd=tmp_path)
    assert answer.returncode == 0
    assert json.loads(answer.stdout)[0]["label"] == 7


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Path:
    """An environment with the mnist-runtime wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("edge")
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT / "runtime"]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (wheel,) = folder.glob("mnist_runtime-*-py3-none-any.whl")
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, "--python", python, "install", *constraints, wheel], check=True, cwd=folder)
    return python.parent


def test_the_wheel_installs_only_its_declared_dependencies(edge):
    listed = subprocess.check_output(
        [sys.executable, "-m", "pip", "--python", edge / "python", "list", "--format=json"]
    )
    names = {package["name"] for package in json.loads(listed)}
    assert {"mnist-runtime", "numpy", "onnxruntime", "click"} <= names
    assert names <= {"mnist-runtime", "numpy", "onnxruntime", "click", "flatbuffers", "packaging", "protobuf"}


def test_the_wheel_installs_only_commands_that_work(edge):
    commands = {path.name for path in edge.iterdir() if path.name.startswith("mnist")}
    assert commands == {"mnist-infer", "mnist-parity"}
    for command in commands:
        assert subprocess.run([edge / command, "--version"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(("how", "brings"), [([], True), (["--no-deps"], False)])
def test_beside_another_build_of_onnxruntime_pip_brings_none_without_dependencies(edge, tmp_path, how, brings):
    (wheel,) = edge.parents[1].glob("mnist_runtime-*.whl")
    pip = [sys.executable, "-m", "pip", "--python", edge / "python", "--disable-pip-version-check", "--quiet"]
    plan = ["install", "--dry-run", "--ignore-installed", *how, "--report", tmp_path / "plan.json", wheel]
    subprocess.run([*pip, *plan], check=True, cwd=tmp_path)
    planned = {each["metadata"]["name"] for each in json.loads((tmp_path / "plan.json").read_text())["install"]}
    assert ("onnxruntime" in planned) == brings


def test_without_torch_digits_are_recognised_and_parity_is_proven(edge, run, exported, tmp_path):
    missing = subprocess.run([edge / "python", "-c", "import torch"], capture_output=True, check=False)
    assert b"No module named 'torch'" in missing.stderr
    run("mnist-data", "save", 0, tmp_path / "digit.npy")
    for model in (exported / "mnist.onnx", exported / "mnist.uint8.onnx"):
        subprocess.run([edge / "mnist-parity", model], check=True, capture_output=True, cwd=tmp_path)
        command = [edge / "mnist-infer", tmp_path / "digit.npy", "--model", model, "--format", "jsonl"]
        assert json.loads(subprocess.check_output(command, cwd=tmp_path))["label"] == 7
    bundled = subprocess.check_output([edge / "mnist-infer", tmp_path / "digit.npy", "--format", "jsonl"], cwd=tmp_path)
    assert json.loads(bundled)["label"] == 7
