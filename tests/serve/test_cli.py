"""mnist-serve's command line."""

import subprocess
import sys

import pytest

from mnist_runtime import __version__


def test_help_and_version_need_neither_numpy_nor_the_servers_libraries():
    for flag, expected in (("--help", "Exit codes"), ("--version", f"mnist-serve, version {__version__}")):
        code = (
            "import sys; "
            "[sys.modules.__setitem__(name, None) for name in ('numpy', 'onnxruntime', 'starlette', 'uvicorn')]; "
            f"from mnist_serve.cli import serve as command; command(['{flag}'])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--port", "70000"], "'--port'"),
        (["--name", "a/b"], "'a/b' may only contain letters, digits, '.', '_' and '-'"),
        (["--timeout", "0"], "'--timeout': 0.0 is not in the range x>0"),
        (["--timeout", "nan"], "'--timeout': 'nan' is not a finite number"),
        (["--timeout", "inf"], "'--timeout': 'inf' is not a finite number"),
        (["--max-body", "16MB"], "'--max-body'"),
        (["--reload"], "--reload needs a --model FILE or FOLDER to watch."),
        (["--cors-origin", "https://a/"], "'https://a/' is no origin; give one such as https://example.org"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_wrong_usage_exits_2(run, home, args, sentence):
    result = run("mnist-serve", *args, cwd=home)
    assert result.returncode == 2
    assert sentence in result.stderr.decode()


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_model_that_cannot_be_used_exits_1_and_is_named(run, tmp_path, content):
    if content is not None:
        (tmp_path / "bad.onnx").write_bytes(content)
    result = run("mnist-serve", "--model", "bad.onnx", "--port", "0", cwd=tmp_path)
    (error_line,) = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert error_line.startswith("Error: bad.onnx ")


def test_the_model_is_chosen_as_in_mnist_infer(serve, bundled):
    chosen = bundled.with_suffix(".uint8.onnx")
    server = serve(env={"MNIST_MODEL": str(chosen)})
    assert server.wait_for("model")["message"].startswith(f"Using {chosen} ($MNIST_MODEL): it read 91.67%")
    assert server.http.get("/v2/models/mnist").json()["inputs"][0]["datatype"] == "UINT8"
