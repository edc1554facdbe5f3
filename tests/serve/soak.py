"""Good, bad, slow and dropped clients on one mnist-serve for minutes: `python tests/serve/soak.py 600`.

New models are published meanwhile. Each request of a good client gets the classifier's answer once, or a 503; a bad
client gets the status of its mistake; the server logs no error, and its memory does not grow. A broken promise ends
the run with exit code 1 (`make soak SECONDS=120`).
"""

import asyncio
import gzip
import io
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from mnist_runtime import Classifier
from mnist_runtime.bundled import BUNDLED
from mnist_runtime.io.files import write_atomically
from mnist_train.data.bundled import load_split

GROWTH = 0.05
"""Largest growth of memory after the warm-up, as a fraction."""
WARM_UP = 0.25
"""Fraction of the time until buffers, caches and threads have reached their final size."""
CONCURRENCY, BODY, TIMEOUT = 24, 2**20, 5.0
"""Limits of the server, so low that clients meet all of them."""
NEAR = 1e-3
"""Largest difference of a logit: float32 rounds by about 1e-5, and another digit's logits differ by more."""
WAIT = 60.0
"""Seconds after which a client considers a request unanswered."""
INFER = "/v2/models/mnist/infer"


class BrokenError(Exception):
    """A broken promise of the server."""


@dataclass
class Soak:
    """One run: the server, its clients, and their results."""

    port: int
    pid: int
    until: float
    digits: np.ndarray
    logits: np.ndarray
    model: Path
    """File under which new models are published."""
    tally: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    """Memory of the server in MiB, one sample per second."""

    async def run(self) -> None:
        """Run all clients until the time is up; the first broken promise ends the run."""
        roles = {
            self.good: 20,
            self.pipelined: 4,
            self.bad: 6,
            self.slow: 6,
            self.dropped: 6,
            self.pictures: 2,
            self.publisher: 1,
            self.watcher: 1,
        }
        async with asyncio.TaskGroup() as clients:
            for role, count in roles.items():
                for number in range(count):
                    clients.create_task(self._again_and_again(role, random.Random(f"{role.__name__} {number}")))

    async def _again_and_again(
        self, role: Callable[[random.Random], Coroutine[Any, Any, None]], rng: random.Random
    ) -> None:
        while time.monotonic() < self.until:
            try:
                async with asyncio.timeout(WAIT):
                    await role(rng)
            except (OSError, asyncio.IncompleteReadError) as error:
                raise BrokenError(f"the client {role.__name__} got {error!r} for an answer") from error

    async def good(self, rng: random.Random) -> None:
        """Send up to fifty batches on one connection, in every form that the protocol has."""
        connection = await self.connect()
        for _ in range(rng.randint(1, 50)):
            rows = rng.sample(range(len(self.digits)), rng.choice([1, 1, 1, 2, 5, 200]))
            name = f"{rng.getrandbits(64):x}"
            status, headers, body = await connection.ask(*self.request(rows, name, rng))
            if status == 503:
                self.expect("retry-after" in headers, "a 503 without Retry-After")
                self.tally["good: refused with 503"] += 1
                await asyncio.sleep(rng.random() / 10)
                continue
            self.check(status, headers, body, rows, name)
            self.tally["good: answered"] += 1
        await connection.close()

    async def pipelined(self, rng: random.Random) -> None:
        """Send many requests, some of them bad, before the first answer, and receive the answers in their order."""
        connection = await self.connect()
        mistakes = [mistake for mistake in self.mistakes() if mistake[1] in {400, 404} and mistake[3]]
        asked: list[tuple[list[int], str, int]] = []
        for _ in range(rng.randint(2, 40)):
            if rng.random() < 0.2:
                _, wanted, head, body = rng.choice(mistakes)
                asked.append(([], "", wanted))
            else:
                rows, name = [rng.randrange(len(self.digits))], f"{rng.getrandbits(64):x}"
                head, body = self.request(rows, name, rng)
                asked.append((rows, name, 200))
            connection.send(head + body)
        for rows, name, wanted in asked:
            status, headers, answer = await connection.receive()
            self.expect(status in {wanted, 503}, f"a pipelined request got {status} and not {wanted}: {answer!r}")
            if status == 200:
                self.check(status, headers, answer, rows, name)
            self.tally["pipelined: answered" if status == 200 else f"pipelined: refused with {status}"] += 1
        await connection.close()

    async def publisher(self, rng: random.Random) -> None:
        """Publish one of the bundled models, or a truncated one."""
        await asyncio.sleep(4 * rng.random())
        good = [path.read_bytes() for path in BUNDLED["linear"]]
        write_atomically(self.model, rng.choice([*good, good[0][:-1]]))

    async def bad(self, rng: random.Random) -> None:
        """Make one mistake, and get its status."""
        what, wanted, head, body = rng.choice(self.mistakes())
        connection = await self.connect()
        try:
            status, _, answer = await connection.ask(head, body)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise BrokenError(f"{what} got {error!r} for an answer") from error
        self.expect(status in {wanted, 503}, f"{what} was answered with {status} and not {wanted}: {answer[:200]!r}")
        self.expect(set(json.loads(answer)) == {"error"}, f"{what} was answered with {answer[:200]!r}")
        self.tally[f"bad: refused with {status}"] += 1
        await connection.close(whole=False)

    async def slow(self, rng: random.Random) -> None:
        """Send a body slowly, sometimes beyond the server's deadline."""
        rows, name, too_slow = [rng.randrange(len(self.digits))], f"{rng.getrandbits(64):x}", rng.random() < 0.3
        head, body = self.request(rows, name, rng)
        pieces = 40 if too_slow else 4
        connection = await self.connect()
        connection.send(head)
        answer, began = asyncio.create_task(connection.receive()), time.monotonic()
        for i in range(pieces):
            connection.send(body[i * len(body) // pieces : (i + 1) * len(body) // pieces])
            await asyncio.wait([answer], timeout=TIMEOUT / 20)
            if answer.done():
                break
        took = time.monotonic() - began  # on a loaded machine, this client may be slower than intended
        try:
            status, headers, answer = await answer
        except ConnectionError:
            self.expect(took > TIMEOUT / 2, f"a client that took {took:.1f} of {TIMEOUT} seconds was disconnected")
            self.tally["slow: disconnected"] += 1
            return
        if status in {408, 503}:
            is_due = took > TIMEOUT / 2 or status == 503
            self.expect(is_due, f"a client that took {took:.1f} of {TIMEOUT} seconds got {status}")
            self.tally[f"slow: refused with {status}"] += 1
        else:
            self.expect(not too_slow, f"a client that took {took:.1f} of {TIMEOUT} seconds was answered with {status}")
            self.check(status, headers, answer, rows, name)
            self.tally["slow: answered"] += 1
        await connection.close(whole=False)

    async def dropped(self, rng: random.Random) -> None:
        """Disconnect at some point between the first byte and the answer."""
        connection = await self.connect()
        request = b"".join(self.request([rng.randrange(len(self.digits))], "gone", rng))
        whole = rng.random() < 0.5
        connection.send(request if whole else request[: rng.randrange(1, len(request))])
        await asyncio.sleep(rng.random() / 20)
        self.tally["dropped: after it was sent" if whole else "dropped: half-way"] += 1
        connection.abort()

    async def pictures(self, rng: random.Random) -> None:
        """Send a drawing, as the page does."""
        row = rng.randrange(len(self.digits))
        file = io.BytesIO()
        Image.fromarray(np.pad(np.kron(self.digits[row].reshape(28, 28), np.ones((7, 7), np.uint8)), 28)).save(
            file, "PNG"
        )
        connection = await self.connect()
        status, _, body = await connection.ask(head("/digit", file.tell()), file.getvalue())
        self.expect(status in {200, 503}, f"a picture was answered with {status}: {body[:200]!r}")
        if status == 200:
            pixels = np.array(json.loads(body)["pixels"], np.uint8)
            self.expect(np.count_nonzero(pixels) > 20, "a picture was read as blank")
        self.tally["pictures: answered" if status == 200 else "pictures: refused with 503"] += 1
        await connection.close()
        await asyncio.sleep(0.1)

    async def watcher(self, rng: random.Random) -> None:
        """Check that probes and metrics are answered at all times, and record the server's memory."""
        connection = await self.connect()
        for path in ("/v2/health/ready", "/metrics", "/"):
            status, _, _ = await connection.ask(head(path, method="GET"), b"")
            self.expect(status == 200, f"{path} was answered with {status}")
        await connection.close()
        self.memory.append(resident(self.pid))
        await asyncio.sleep(1)

    def request(self, rows: list[int], name: str, rng: random.Random) -> tuple[bytes, bytes]:
        """Return head and body of an inference request, in a random form."""
        digits = self.digits[rows] if rng.random() < 0.5 else self.digits[rows].astype(np.float32) / 256
        tensor = {
            "name": "pixels",
            "shape": [*digits.shape],
            "datatype": "UINT8" if digits.dtype == np.uint8 else "FP32",
        }
        outputs = [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "label"}]
        headers = []
        if rng.random() < 0.5:
            tensor["parameters"] = {"binary_data_size": digits.nbytes}
            text = json.dumps({"id": name, "inputs": [tensor], "outputs": outputs}).encode()
            headers.append(f"Inference-Header-Content-Length: {len(text)}")
            body = text + digits.tobytes()
        else:
            tensor["data"] = digits.tolist() if rng.random() < 0.5 else digits.ravel().tolist()
            body = json.dumps({"id": name, "inputs": [tensor], "outputs": outputs}).encode()
        if len(body) > BODY or rng.random() < 0.3:
            body = gzip.compress(body, 1)
            headers.append("Content-Encoding: gzip")
        return head(INFER, len(body), *headers), body

    def check(self, status: int, headers: dict[str, str], body: bytes, rows: list[int], name: str) -> None:
        """Check that this is the answer to these digits."""
        self.expect(status == 200, f"a good request was answered with {status}: {body[:300]!r}")
        text = body[: int(headers.get("inference-header-content-length", len(body)))]
        answer = json.loads(text)
        self.expect(answer["id"] == name, f"the answer to {answer['id']} came to {name}")
        logits = next(output for output in answer["outputs"] if output["name"] == "logits")
        right = np.abs(np.reshape(logits["data"], (-1, 10)) - self.logits[rows]).max() < NEAR
        self.expect(bool(right), f"digits {rows} were answered with the logits of others")

    def mistakes(self) -> list[tuple[str, int, bytes, bytes]]:
        """Return the mistakes of a client: name, expected status, head and body."""
        row = self.digits[0].tolist()

        def document(**changes: Any) -> bytes:
            return json.dumps(
                {"inputs": [{"name": "pixels", "shape": [1, 784], "datatype": "UINT8", "data": row} | changes]}
            ).encode()

        bodies = [
            ("malformed JSON", b'{"inputs": ['),
            ("a shape that the data do not have", document(shape=[2, 784])),
            ("an unknown tensor", document(name="picture")),
            ("an unknown datatype", document(datatype="FP16")),
            ("an intensity of 256", document(data=[256, *row[1:]])),
            ("a NaN", document(datatype="FP32", data=[float("nan"), *[0.0] * 783])),
        ]
        wrong = [(what, 400, head(INFER, len(body)), body) for what, body in bodies]
        whole = document()
        return [
            *wrong,
            ("an unknown model", 404, head("/v2/models/cifar/infer", len(whole)), whole),
            ("an unknown path", 404, head("/v1/predict", len(whole)), whole),
            ("a body that is too large", 413, head(INFER, 2 * BODY), b""),
            ("no HTTP", 400, b"HELLO\r\n\r\n", b""),
            ("a picture of nothing", 422, head("/digit", 5), b"hello"),
        ]

    def expect(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise BrokenError(otherwise)

    async def connect(self) -> "Connection":
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))


@dataclass
class Connection:
    """A connection for one request after the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, head: bytes, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(head + body)
        return await self.receive()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def close(self, *, whole: bool = True) -> None:
        """Disconnect; after whole requests, check that no further answer arrives."""
        if whole:
            self.writer.write_eof()
            if surplus := await self.reader.read():
                raise BrokenError(f"an answer arrived without a request: {surplus[:200]!r}")
        self.writer.close()

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


def head(path: str, length: int = 0, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "\r\n"]).encode()


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def growth(memory: list[float]) -> tuple[float, float, float]:
    """Return the memory after warm-up and at the end, medians of a tenth of all samples each, and its growth."""
    after, tenth = memory[int(len(memory) * WARM_UP) :], max(len(memory) // 10, 1)
    first, last = statistics.median(after[:tenth]), statistics.median(after[-tenth:])
    return first, last, last / first - 1


def counted(port: int) -> tuple[int, int]:
    """Return the number of inference requests that the server has answered with 200, and of models it has loaded."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]

    def total(name: str, **labels: str) -> int:
        return sum(int(each.value) for each in samples if each.name == name and labels.items() <= each.labels.items())

    answered = total("mnist_serve_requests_total", route="/v2/models/{model}/infer", status="200")
    return answered, total("mnist_serve_reloads_total", outcome="swapped")


def soak(seconds: float) -> None:
    """Run everything, and print the results.

    Raises:
        BrokenError: the server broke a promise.
    """
    digits = load_split("test").images.reshape(-1, 784)
    logits = Classifier("linear").decision_function(digits)
    limits = ["--max-concurrency", CONCURRENCY, "--max-body", BODY, "--timeout", TIMEOUT]
    command = [
        Path(sys.executable).parent / "mnist-serve",
        "--port",
        0,
        "--log-format",
        "json",
        "--no-access-log",
        "--reload",
        "--model",
        "mnist.onnx",
        *limits,
    ]
    with tempfile.TemporaryDirectory() as home, (Path(home) / "log").open("wb") as log:
        model = Path(home) / "mnist.onnx"
        shutil.copyfile(BUNDLED["linear"][0], model)
        with subprocess.Popen(list(map(str, command)), cwd=home, stderr=log) as process:
            port = listening(process, Path(home) / "log")
            run = Soak(port, process.pid, time.monotonic() + seconds, digits, logits, model)
            try:
                asyncio.run(run.run())
                served, reloads = counted(port)
            finally:
                process.terminate()
        events = [json.loads(line) for line in (Path(home) / "log").read_text().splitlines()]
    received = sum(run.tally[f"{role}: answered"] for role in ("good", "pipelined", "slow"))
    first, last, grown = growth(run.memory)
    for what, count in sorted(run.tally.items()):
        print(f"{count:>10,}  {what}")
    print(f"{served:>10,}  inferences that the server counts as answered, {received:,} of them received")
    print(f"{reloads:>10,}  models loaded meanwhile")
    print(f"memory {first:.1f} MiB after warm-up, {last:.1f} MiB at the end: {grown:+.1%}")
    errors = [event for event in events if event["event"] == "error"]
    run.expect(process.returncode == 0, f"the server ended with {process.returncode}")
    run.expect(reloads, "no model was loaded")
    run.expect(not errors, f"the server logged errors: {errors[:3]}")
    run.expect(0 <= served - received <= run.tally["dropped: after it was sent"], "answers and requests do not add up")
    run.expect(grown <= GROWTH, f"memory grew by more than {GROWTH:.0%}")


def listening(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """Return the server's port, once the log announces it."""
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}") and "url" in (answer := json.loads(line)):
                return int(answer["url"].rpartition(":")[2])
        time.sleep(0.05)
    raise BrokenError(f"the server did not start: {log.read_text()}")


if __name__ == "__main__":
    try:
        soak(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
    except* BrokenError as broken:
        for each in broken.exceptions:
            print(f"Broken: {each}", file=sys.stderr)
        sys.exit(1)
