"""Settings of onnxruntime: our defaults, the caller's own, and values that are refused."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from mnist_runtime import Classifier, MnistRuntimeError, OptionError


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threads": 0}, "whole number from 1"),
        ({"threads": True}, "whole number from 1"),
        ({"threads": "all"}, "whole number from 1"),
        ({"providers": "CPUExecutionProvider"}, "must be a list"),
        ({"providers": []}, "must be a list"),
        ({"providers": 3}, "must be a list"),
        ({"providers": [()]}, "a provider is .*, and must be a name"),
        ({"providers": [("CPUExecutionProvider", 3)]}, "a provider is .*, and must be a name"),
        ({"trusted_contract": "x"}, 'trusted_contract is .*, and must be "float32" or "uint8"'),
        ({"providers": [("AbacusExecutionProvider", {"beads": 10})]}, "no AbacusExecutionProvider; it has "),
        ({"threads": 2**40}, "whole number from 1 to 1,024"),
        ({"session_options": 3}, "session_options is a int, and must be onnxruntime.SessionOptions"),
        ({"providers": ["AbacusExecutionProvider"]}, "no AbacusExecutionProvider; it has "),
        ({"model": 7}, "a path, bytes, a published folder, or one of 'cnn'"),
    ],
)
def test_an_invalid_setting_is_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence) as caught:
        Classifier(**options)
    assert isinstance(caught.value, (MnistRuntimeError, ValueError))


def test_idle_threads_do_not_spin_and_ours_is_one():
    options = Classifier().artifact.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_settings_of_the_caller_reach_onnxruntime():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    classifier = Classifier(providers=[("CPUExecutionProvider", {})], session_options=options)
    taken = classifier.artifact.session.get_session_options()
    assert taken.intra_op_num_threads == 3
    assert taken.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert classifier.artifact.session.get_providers() == ["CPUExecutionProvider"]


class NoGpu(ort.InferenceSession):
    """A session like that of onnxruntime-gpu without CUDA: it runs on the CPU, and only logs that."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def asked() -> str:
    """A provider that this onnxruntime has besides the CPU's."""
    others = [name for name in ort.get_available_providers() if name != "CPUExecutionProvider"]
    return others[0] if others else pytest.skip("this onnxruntime has the CPU's provider alone")


def test_a_provider_that_cannot_be_used_is_refused_and_not_replaced(monkeypatch, asked):
    monkeypatch.setattr(ort, "InferenceSession", NoGpu)
    with pytest.raises(OptionError, match=rf"cannot use {asked} here \(.*\); install what it needs, or give CPU"):
        Classifier(providers=[asked])
    assert repr(Classifier()).endswith(", 1 thread(s), CPUExecutionProvider>")


def test_an_error_of_the_provider_is_not_blamed_on_the_model(monkeypatch, asked):

    class Broken(ort.InferenceSession):
        def __init__(self, *args, providers, **options):
            if asked in providers:
                raise RuntimeError("its library is missing")
            super().__init__(*args, providers=providers, **options)

    monkeypatch.setattr(ort, "InferenceSession", Broken)
    with pytest.raises(OptionError, match=rf"cannot use {asked} here \(its library is missing\)"):
        Classifier(providers=[asked])


def test_pip_leaves_another_build_of_onnxruntime_alone_without_dependencies(tmp_path):
    """docs/runtime.md's two lines: pip's resolver would install the CPU build over another one."""
    pytest.importorskip("hatchling")
    runtime = Path(__file__).parents[3] / "runtime"
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--no-deps", "--report", report, runtime], check=True, capture_output=True, timeout=120)
    assert [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]] == ["mnist-runtime"]
    assert "pip install --no-deps ./runtime" in (runtime.parent / "docs" / "runtime.md").read_text()
