"""Speed of mnist-serve beside a bare route and a simple FastAPI server. Exits with 1 if a bound is missed.

Every figure is a median of alternating repeats in one run of this file, under load from a second process. Compare
ratios, because figures depend on the machine. All servers run on uvicorn with httptools and uvloop, without access
logs. It takes two minutes.

Batching is measured on the bundled convolutional model and on a network of 15 MB. A run of the linear model takes a few
of a request's hundred microseconds, so that batching could save nothing.
"""

import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import uvicorn
from _claim import Claim, report

from mnist_runtime.bundled import BUNDLED
from mnist_train.data.bundled import load_split

REPEATS = 9
SECONDS = 1.0  # of one repeat
CLIENTS = 64
BIN = Path(sys.executable).parent
PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin"

LOAD = """
import json, select, socket, sys, time
port, clients, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
request = open(sys.argv[4], "rb").read()
epoll, sent, buffers, latencies, now = select.epoll(), {}, {}, [], time.perf_counter
sockets = {}
for _ in range(clients):
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sockets[client.fileno()] = client
    epoll.register(client, select.EPOLLIN)

def answer(number):
    # the body, once it is complete
    data = buffers[number] = buffers[number] + sockets[number].recv(65536)
    end = data.find(b"\\r\\n\\r\\n")
    if end < 0:
        return None
    head = data[:end].lower()
    if not head.startswith(b"http/1.1 200"):
        sys.exit(data.decode("latin-1"))
    at = head.find(b"content-length: ") + 16
    length = int(head[at:].split(b"\\r", 1)[0])
    return data[end + 4 :] if len(data) >= end + 4 + length else None

def ask(number):
    buffers[number] = b""
    sent[number] = now()
    sockets[number].sendall(request)

for number in sockets:
    ask(number)
started, cpu, body = now(), time.process_time(), b""
while now() < started + seconds:
    for number, _ in epoll.poll():
        body = answer(number)
        if body is not None:
            latencies.append(now() - sent[number])
            ask(number)
took, cpu = now() - started, time.process_time() - cpu
latencies.sort()
print(json.dumps({
    "rate": len(latencies) / took,
    "p50": latencies[len(latencies) // 2],
    "p99": latencies[len(latencies) * 99 // 100],
    "busy": cpu / took,
}))
"""
"""Load generator: a bare epoll loop that keeps many connections busy with one request after the other."""

BARE = """
import socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = open(sys.argv[1], "rb").read()

async def infer(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/octet-stream")

app = Starlette(routes=[Route("/v2/models/mnist/infer", infer, methods=["POST"])])
"""
LEAST = """
import socket, sys, uvicorn
from mnist_runtime import Classifier
from mnist_serve.protocol import parse, render

classifier = Classifier(sys.argv[1])

async def app(scope, receive, send):
    body = (await receive())["body"]
    request = parse(body, dict(scope["headers"])[b"inference-header-content-length"], "UINT8")
    response = render(request, classifier.compute(request.digits), "mnist")
    headers = [
        (b"content-length", b"%d" % len(response.body)),
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"%d" % response.json_length),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
"""
"""The least that answers the same on uvicorn: without routes, limits, batches, metrics and log."""
NAIVE = """
import socket, sys, warnings, uvicorn
warnings.simplefilter("ignore")
import torch
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = torch.jit.load(sys.argv[1]).eval()
torch.set_num_threads(1)

class Digits(BaseModel):
    pixels: list[list[float]]

@app.post("/v2/models/mnist/infer")
def infer(digits: Digits):
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor(digits.pixels)), dim=1)
    return {"labels": probabilities.argmax(dim=1).tolist(), "probabilities": probabilities.tolist()}
"""
MLSERVER = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Digits(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, request):
        pixels = NumpyCodec.decode_input(request.inputs[0])
        probabilities = self.session.run(["probabilities"], {"pixels": pixels})[0]
        outputs = {"label": probabilities.argmax(axis=1), "probabilities": probabilities}
        encoded = [NumpyCodec.encode_output(name, values) for name, values in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)
"""
ON_UVICORN = """
listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="httptools", loop="uvloop", ws="none", access_log=False, log_level="error")
uvicorn.Server(config).run(sockets=[listener])
"""


@dataclass(frozen=True)
class Measure:
    """Answers per second of one server under load, latencies in seconds, and the load generator's share of a CPU."""

    rate: float
    p50: float
    p99: float
    busy: float


@dataclass(frozen=True)
class Server:
    """A running server, and the file with the request that it is sent."""

    port: int
    request: Path

    def load(self, clients: int) -> Measure:
        """Keep `clients` connections busy for a while."""
        command = [sys.executable, "-I", "-S", "-c", LOAD, self.port, clients, SECONDS, self.request]
        return Measure(**json.loads(subprocess.check_output(list(map(str, command)))))

    def ask(self) -> bytes:
        """Send one request and return the body of the answer."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(self.request.read_bytes())
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.read()


def alternate(servers: dict[str, Server], clients: int) -> dict[str, Measure]:
    """Return the medians of each server's figures, measured in turn."""
    for server in servers.values():
        for _ in range(5):  # TorchScript is compiled during its first runs
            server.ask()
    samples: dict[str, list[Measure]] = {name: [] for name in servers}
    for _ in range(REPEATS):
        for name, server in servers.items():
            samples[name].append(server.load(clients))
    return {
        name: Measure(*(statistics.median(values) for values in zip(*map(astuple, of), strict=True)))
        for name, of in samples.items()
    }


@contextmanager
def ours(request: Path, *options: object) -> Iterator[Server]:
    command = [BIN / "mnist-serve", "--port", "0", "--log-format", "json", "--no-access-log", *options]
    words = list(map(str, command))
    with subprocess.Popen(words, stderr=subprocess.PIPE, cwd=request.parent) as process:  # which has no artifacts/
        said = next(line for line in map(json.loads, process.stderr) if line["event"] == "listening")
        try:
            yield Server(int(said["url"].rpartition(":")[2]), request)
        finally:
            process.terminate()


@contextmanager
def theirs(source: str, argument: Path, request: Path) -> Iterator[Server]:
    command = [sys.executable, "-c", source + ON_UVICORN, argument]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield Server(int(process.stdout.readline()), request)
        finally:
            process.terminate()


@contextmanager
def mlserver(folder: Path, request: Path) -> Iterator[Server]:
    """Seldon's MLServer with the bundled network, in its own process and without workers."""
    http_port, grpc_port, metrics_port = free_ports(3)
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    model = {"name": "mnist", "implementation": "digits.Digits", "parameters": {"uri": str(BUNDLED["cnn"][0])}}
    folder.mkdir()
    (folder / "digits.py").write_text(MLSERVER)
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [PEERS / "mlserver", "start", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        server = Server(http_port, request)
        try:
            while process.poll() is None:
                with suppress(OSError, http.client.HTTPException):
                    server.ask()
                    break
                time.sleep(0.1)
            else:
                sys.exit("MLServer ended before it answered")
            yield server
        finally:
            process.terminate()


def free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def post(body: bytes, *headers: str) -> bytes:
    """Return the bytes of an HTTP request."""
    lines = ["POST /v2/models/mnist/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def binary(digit: np.ndarray, outputs: list[str]) -> bytes:
    """Return a request with a digit in the binary tensor extension, as tritonclient sends it."""
    datatype = {"float32": "FP32", "uint8": "UINT8"}[digit.dtype.name]
    described = {"name": "pixels", "shape": [1, 784], "datatype": datatype}
    header = {
        "inputs": [described | {"parameters": {"binary_data_size": digit.nbytes}}],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    return post(text + digit.tobytes(), "Content-Type: application/octet-stream", length)


def one_client(folder: Path, digit: np.ndarray) -> list[Claim]:
    """Compare the latency of one digit over one connection with that of a route that computes nothing."""
    request, answer = folder / "binary", folder / "answer"
    request.write_bytes(binary(digit, ["label", "probabilities"]))
    with ours(request, "--model", folder) as mine:
        answer.write_bytes(mine.ask())
        with theirs(BARE, answer, request) as bare, theirs(LEAST, folder, request) as least:
            servers = {"mnist-serve": mine, "bare Starlette route": bare, "the same answer, nothing else": least}
            seen = alternate(servers, clients=1)
    print_table("one uint8 digit, binary, one keep-alive connection", seen)
    mine_, bare_, _ = seen.values()
    texts = f"{mine_.p50 * 1e6:.0f} us", f"{bare_.p50 * 1e6:.0f} us"
    return [Claim("one digit, latency / bare Starlette route", *texts, mine_.p50 / bare_.p50, 1.2)]


def many_clients(folder: Path, digit: np.ndarray) -> list[Claim]:
    """Compare the throughput of the bundled model with 64 connections with that of a simple FastAPI server."""
    import torch

    from mnist_train.models import build

    request, text, as_text = folder / "binary", folder / "json", folder / "v2-json"
    pixels = (digit.astype(np.float32) / 256).tolist()
    text.write_bytes(post(json.dumps({"pixels": pixels}).encode(), "Content-Type: application/json"))
    tensor = {"name": "pixels", "shape": [1, 784], "datatype": "FP32", "data": pixels}
    as_text.write_bytes(post(json.dumps({"inputs": [tensor]}).encode(), "Content-Type: application/json"))
    network = folder / "cnn.pt"  # not trained, which takes no less time
    torch.jit.trace(build("cnn").eval(), torch.zeros(2, 784)).save(network)
    with (
        ours(request) as batching,
        ours(request, "--max-batch", 1) as alone,
        theirs(NAIVE, network, text) as naive,
    ):
        servers = {
            "mnist-serve": batching,
            "the same, --max-batch 1": alone,
            "the same, sent JSON": Server(batching.port, as_text),
            "FastAPI and torch.jit, sent JSON": naive,
        }
        seen = alternate(servers, CLIENTS)
    print_table(f"one digit a request, {CLIENTS} connections, the bundled convolutional model", seen)
    mine, unbatched, fed_text, first = seen.values()
    busiest = max(each.busy for each in seen.values())
    return [
        rates("batching / none, the bundled model", mine, unbatched, 1.5),
        rates("mnist-serve / FastAPI and torch.jit", mine, first, 10),
        rates("the same, both sent JSON", fed_text, first, 3),
        Claim("the load generator's share of a CPU", f"{busiest:.2f}", "1.00", busiest, 0.7),
    ]


def beside_mlserver(folder: Path, digit: np.ndarray) -> list[Claim]:
    """Throughput of the bundled model with 64 connections, against MLServer; the same JSON, uint8, to both."""
    if not (PEERS / "mlserver").exists():
        print("\nNo row of MLServer: make bench installs it in .venv-peers.")
        return []
    request = folder / "v2-json-uint8"
    tensor = {"name": "pixels", "shape": [1, 784], "datatype": "UINT8", "data": digit.tolist()}
    request.write_bytes(post(json.dumps({"inputs": [tensor]}).encode(), "Content-Type: application/json"))
    with ours(request) as mine, mlserver(folder / "mlserver", request) as peer:
        seen = alternate({"mnist-serve": mine, "MLServer": peer}, CLIENTS)
    print_table(f"one digit a request, as JSON, {CLIENTS} connections, the bundled convolutional model", seen)
    return [rates("mnist-serve / MLServer, both sent JSON", *seen.values(), 2)]


def heavy_model(folder: Path) -> list[Claim]:
    """Compare batching with none for 64 connections and 15 MB of weights, which are read once per batch."""
    import torch
    from torch import nn

    from mnist_export import export

    torch.manual_seed(0)
    layers = [nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    export(nn.Sequential(*layers), ["onnx", "onnx-uint8"], folder / "heavy")
    request = folder / "binary"
    with (
        ours(request, "--model", folder / "heavy") as batching,
        ours(request, "--model", folder / "heavy", "--max-batch", 1) as alone,
    ):
        seen = alternate({"mnist-serve": batching, "the same, --max-batch 1": alone}, CLIENTS)
    print_table(f"one digit a request, {CLIENTS} connections, a network of 784-2048-1024-10", seen)
    return [rates("batching / none, a network of 15 MB", *seen.values(), 1.5)]


def rates(what: str, mine: Measure, other: Measure, bound: float) -> Claim:
    return Claim(what, f"{mine.rate:,.0f}/s", f"{other.rate:,.0f}/s", mine.rate / other.rate, bound, at_least=True)


def print_table(title: str, measures: dict[str, Measure]) -> None:
    print(f"\n{title}\n  {'':34}{'answers/s':>10}{'p50':>12}{'p99':>12}{'load generator':>18}")
    for name, seen in measures.items():
        milliseconds = f"{seen.p50 * 1e3:>9.3f} ms{seen.p99 * 1e3:>9.3f} ms"
        print(f"  {name:34}{seen.rate:>10,.0f}{milliseconds}{seen.busy:>9.0%} of a CPU")


def main() -> int:
    digits = load_split("test").images[:1].reshape(1, 784)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train = [BIN / "mnist-train", "--output-dir", folder, "--device", "cpu"]
        for command in (train, [BIN / "mnist-export", folder / "mnist.safetensors", "--output-dir", folder]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        versions = f"Python {platform.python_version()}, uvicorn {uvicorn.__version__}"
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, {versions}")
        claims = [
            *one_client(folder, digits),
            *many_clients(folder, digits),
            *beside_mlserver(folder, digits),
            *heavy_model(folder),
        ]
    return report(claims)


if __name__ == "__main__":
    sys.exit(main())
