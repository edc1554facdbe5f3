"""Every program in examples/ runs as its first lines say; examples/c is tested in tests/edge."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from mnist_runtime import Classifier

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent

LABELS = {"digit.npy": 7, "drawn.png": 2, "printed.png": 0, "ruled.jpg": 4, "seven.jpg": 7}
"""Digit in each picture."""


class Program:
    """A server that runs until the test's end, and the address that it prints."""

    def __init__(self, *command: object, folder: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*map(str, command)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
        self.log = ""
        for line in self.process.stdout:
            self.log += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                break
        else:
            pytest.fail(f"{command} printed no address: {self.log}")
        self._reader = threading.Thread(target=self.process.stdout.read)  # keeps the pipe from filling up
        self._reader.start()

    def close(self) -> None:
        self.process.terminate()
        self._reader.join(timeout=60)
        self.process.stdout.close()
        self.process.wait(timeout=60)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, trust_env=False)

    def post(self, path: str, picture: bytes) -> httpx.Response:
        return httpx.post(self.url + path, content=picture, timeout=60, trust_env=False)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start programs with our commands on their path."""
    started: list[Program] = []

    def start(*command: object, folder: Path = ROOT, **variables: str) -> Program:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1", **variables}
        started.append(Program(*command, folder=folder, env=env))
        return started[-1]

    yield start
    for program in started:
        program.close()


@pytest.fixture(scope="module")
def seven() -> bytes:
    return (EXAMPLES / "seven.jpg").read_bytes()


def test_mnist_infer_reads_every_picture(run):
    done = run("mnist-infer", EXAMPLES, "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in done.stdout.decode().splitlines()]
    source, label = rows[0].index("source"), rows[0].index("label")
    assert {Path(row[source]).name: int(row[label]) for row in rows[1:]} == LABELS


def test_the_script_makes_the_committed_pictures(tmp_path: Path):
    subprocess.run([sys.executable, EXAMPLES / "make_pictures.py", tmp_path], check=True)
    assert {path.name for path in tmp_path.iterdir()} == set(LABELS)
    assert (tmp_path / "digit.npy").read_bytes() == (EXAMPLES / "digit.npy").read_bytes()
    for name in LABELS.keys() - {"digit.npy"}:
        made, committed = (np.asarray(Image.open(folder / name), np.int16) for folder in (tmp_path, EXAMPLES))
        assert abs(made - committed).max() <= 8, name  # JPEG encoders round differently


def test_the_readme_shows_the_flask_app():
    (block,) = re.findall(
        r"```python\n(app = Flask.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert block in (EXAMPLES / "flask_app.py").read_text(encoding="utf-8")


def test_the_flask_app_answers_a_photograph(start, seven):
    app = start("flask", "--app", "examples/flask_app", "run", "--port", 0)
    answer = app.post("/digit", seven)
    assert answer.json() == Classifier().read(seven).to_dict()
    refused = app.post("/digit", b"not an image")
    assert refused.status_code == 422
    assert "not an image" in refused.json()["error"]
    assert app.post("/digit", bytes(2**24 + 1)).status_code == 413


def test_the_fastapi_app_answers_a_photograph_and_serves_the_page_under_its_prefix(start, seven):
    app = start("uvicorn", "--app-dir", "examples", "fastapi_app:app", "--port", 0)
    assert app.post("/digit", seven).json() == Classifier().read(seven).to_dict()
    refused = app.post("/digit", b"not an image")
    assert refused.status_code == 422
    assert "not an image" in refused.json()["detail"]
    assert "<canvas" in app.get("/digits/").text
    assert app.post("/digits/digit", seven).json()["label"] == 7
    assert app.get("/digits/v2/health/ready").json() == {"ready": True}


def steps(instruction: str) -> list[str]:
    """Return the arguments of an instruction of the Dockerfile, one string per line."""
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)


def test_the_dockerfiles_steps_build_a_server_that_passes_its_health_check(start, tmp_path: Path):
    """Follow the steps without Docker and an index: the copied files suffice to install the command and run it."""
    source, installed = tmp_path / "src", tmp_path / "installed"
    source.mkdir()
    for copied in (line.split() for line in steps("COPY") if not line.startswith("--from")):
        for name in copied[:-1]:
            target = source / copied[-1] / ("" if (ROOT / name).is_dir() else name)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    (install,) = (line for line in steps("RUN") if "pip install" in line)
    words = [*shlex.split(install)[1:], "--no-deps", "--no-build-isolation", "--target", str(installed)]
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=source, check=True, capture_output=True)
    assert (installed / "bin" / "mnist-serve").exists()
    assert "65534:65534" in steps("USER")
    (command,) = (json.loads(line) for line in steps("CMD"))
    options = {"0.0.0.0": "127.0.0.1", "8000": "0"}
    words = [options.get(word, word) for word in command]
    server = start(installed / "bin" / words[0], *words[1:], folder=tmp_path, PYTHONPATH=str(installed))
    check = json.loads(steps("HEALTHCHECK")[0].partition("CMD ")[2])
    local = [word.replace("http://127.0.0.1:8000", server.url).replace("timeout=2", "timeout=60") for word in check]
    subprocess.run([sys.executable, *local[1:]], check=True)


def docker_runs() -> bool:
    """Return True if docker is installed, and its daemon answers."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not docker_runs(), reason="needs docker")
def test_docker_builds_the_image():
    command = ["docker", "build", "--quiet", "--file", "examples/Dockerfile", "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
