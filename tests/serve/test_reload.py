"""Hot reload: a proven model replaces the served one between two requests; others are refused."""

import asyncio
import contextlib
import io
import os
import resource
import shutil
import threading

import numpy as np
import pytest

from mnist_export.publishing import File, publish
from mnist_runtime import Classifier
from mnist_runtime.io.files import write_atomically
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.seal import seal, sealed_digest
from mnist_serve import ServedModel, reload
from mnist_serve.metrics import Metrics

INFER = "/v2/models/mnist/infer"


@pytest.fixture
def float32(bundled) -> bytes:
    return bundled.read_bytes()


@pytest.fixture
def uint8(bundled) -> bytes:
    return bundled.with_suffix(".uint8.onnx").read_bytes()


@pytest.fixture
def impostor(float32) -> bytes:
    """The bundled model with an intact seal, but with weights that do not match its golden digits."""
    import onnx

    proto = onnx.load_from_string(float32)
    bias = next(tensor for tensor in proto.graph.initializer if list(tensor.dims) == [10])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.001), bias.name))
    next(prop for prop in proto.metadata_props if prop.key == "mnist_edge.sha256").value = "0" * 64
    return seal(proto.SerializeToString(deterministic=True))


def sha256(model: bytes) -> str:
    return Artifact.from_bytes(model, "a test's model").sha256


def publish_into(folder, model: bytes, dtype: str) -> None:
    checkpoint = Artifact.from_bytes(model, "a test's model").metadata["checkpoint_sha256"]
    record = {"format": "onnx" if dtype == "float32" else "onnx-uint8", "input": {"dtype": dtype}}
    publish(folder, {"checkpoint": {"sha256": checkpoint}, "of": dtype}, [File("mnist.onnx", model, record)])


def test_a_new_file_replaces_the_model_without_dropping_a_request(serve, tmp_path, float32, uint8, digits):
    path = tmp_path / "mnist.onnx"
    path.write_bytes(float32)
    server = serve("--model", path, "--reload")
    assert server.wait_for("listening")["sha256"] == [sha256(float32)]
    statuses, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = server.infer(digits)
            statuses.append((answer.status_code, answer.json()["outputs"][2]["data"]))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        write_atomically(path, uint8)
        assert server.wait_for("reloaded")["sha256"] == [sha256(uint8)]
    finally:
        stop.set()
        asking.join()
    expected = Classifier("linear").predict(digits).tolist()
    assert statuses
    assert all(answer == (200, expected) for answer in statuses)
    metadata = server.http.get("/v2/models/mnist").json()
    assert (metadata["inputs"][0]["datatype"], metadata["properties"]["sha256"]) == ("UINT8", sha256(uint8))
    assert server.metric("mnist_serve_reloads_total", outcome="swapped") == 1
    assert server.metric("mnist_serve_model_info", name="mnist", sha256=sha256(uint8)) == 1


def test_a_folder_is_loaded_once_it_is_published_completely(serve, tmp_path, float32, uint8, digits):
    publish_into(tmp_path, float32, "float32")
    server = serve("--model", tmp_path, "--reload")
    publish_into(tmp_path, uint8, "uint8")
    assert server.wait_for("reloaded")["sha256"] == [sha256(uint8)]
    assert server.infer(digits[:1]).json()["outputs"][2]["data"] == [7]


def test_a_model_that_fails_parity_is_refused_and_the_old_one_stays(serve, tmp_path, float32, impostor, digits):
    assert sealed_digest(impostor)
    path = tmp_path / "mnist.onnx"
    path.write_bytes(float32)
    server = serve("--model", path, "--reload")
    before = server.infer(digits).json()
    write_atomically(path, impostor)
    assert "is not at parity: the logit of class" in server.wait_for("refused")["reason"]
    assert server.infer(digits).json() == before
    assert server.metric("mnist_serve_reloads_total", outcome="refused") == 1
    assert server.http.get("/v2/models/mnist").json()["properties"]["sha256"] == sha256(float32)


def test_an_interrupted_export_is_refused_and_its_repair_is_loaded(serve, tmp_path, float32, uint8, digits):
    publish_into(tmp_path, float32, "float32")
    server = serve("--model", tmp_path, "--reload")
    manifest = (tmp_path / "manifest.json").read_bytes()
    write_atomically(tmp_path / "manifest.json", manifest.replace(b'"schema"', b'"incomplete": true, "schema"'))
    assert "was interrupted" in server.wait_for("refused")["reason"]
    assert server.infer(digits[:1]).json()["outputs"][2]["data"] == [7]
    publish_into(tmp_path, uint8, "uint8")
    assert server.wait_for("reloaded")["sha256"] == [sha256(uint8)]


def test_a_file_that_is_unchanged_or_missing_changes_nothing(tmp_path, monkeypatch, caplog, float32, uint8):
    caplog.set_level("INFO", "mnist_serve")
    monkeypatch.setattr(reload, "INTERVAL", 0.001)
    path, model = tmp_path / "mnist.onnx", ServedModel(Classifier(float32))
    looks = []
    monkeypatch.setattr(reload, "_identity", lambda at, real=reload._identity: looks.append(real(at)) or looks[-1])

    async def look() -> None:
        watching = asyncio.create_task(reload.watch(model, path, Metrics(lambda: 0)))
        for content, seen in ((None, None), (float32, model.classifier), (None, model.classifier)):
            if content:
                write_atomically(path, content)
            else:
                path.unlink(missing_ok=True)
            start = len(looks)
            while len(looks) < start + 5:
                await asyncio.sleep(0)
            assert seen is None or model.classifier is seen
        assert not caplog.records
        write_atomically(path, uint8)
        while not caplog.records:
            await asyncio.sleep(0)
        watching.cancel()

    asyncio.run(look())
    assert None in looks
    assert model.classifier.digests == [sha256(uint8)]


def test_a_file_that_is_still_being_written_is_not_loaded(tmp_path, monkeypatch, caplog, float32, uint8):
    """A copy that is not atomic: the file grows between checks until it is whole."""
    caplog.set_level("INFO", "mnist_serve")
    monkeypatch.setattr(reload, "INTERVAL", 0.001)
    path, model = tmp_path / "mnist.onnx", ServedModel(Classifier(float32))
    rest = io.BytesIO(uint8)

    def look(at, real=reload._identity):
        seen = real(at)
        with path.open("ab") as file:
            file.write(rest.read(2000))
        return seen

    monkeypatch.setattr(reload, "_identity", look)

    async def copy() -> None:
        watching = asyncio.create_task(reload.watch(model, path, Metrics(lambda: 0)))
        while not caplog.records:
            await asyncio.sleep(0)
        watching.cancel()

    asyncio.run(copy())
    assert [record.facts["sha256"] for record in caplog.records] == [[sha256(uint8)]]


@pytest.fixture
def watching(monkeypatch, caplog):
    """Watch a path every millisecond; the context's value is a function that waits for an event in the log."""
    caplog.set_level("INFO", "mnist_serve")
    monkeypatch.setattr(reload, "INTERVAL", 0.001)

    @contextlib.asynccontextmanager
    async def watch(model: ServedModel, path):
        task = asyncio.create_task(reload.watch(model, path, Metrics(lambda: 0)))

        async def wait_for(event: str) -> None:
            while event not in [record.event for record in caplog.records]:
                await asyncio.sleep(0)
            caplog.clear()

        yield wait_for
        task.cancel()

    return watch


def test_a_folder_that_is_copied_manifest_first_is_loaded_once_it_is_whole(tmp_path, watching, float32, uint8):
    """Copy in alphabetical order, as `cp -r` and rsync do."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    publish_into(source, uint8, "uint8")
    folder.mkdir()
    model = ServedModel(Classifier(float32))

    async def copy() -> None:
        async with watching(model, folder) as wait_for:
            shutil.copy(source / "manifest.json", folder)
            await wait_for("refused")
            shutil.copy(source / "mnist.onnx", folder)
            await wait_for("reloaded")

    asyncio.run(copy())
    assert model.classifier.digests == [sha256(uint8)]


def test_a_model_that_was_temporarily_unreadable_is_tried_again(tmp_path, watching, float32, uint8):
    path = tmp_path / "mnist.onnx"
    path.write_bytes(uint8)
    model = ServedModel(Classifier(float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def run_short_of_files() -> None:
        async with watching(model, path) as wait_for:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                await wait_for("refused")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await wait_for("reloaded")

    asyncio.run(run_short_of_files())
    assert model.classifier.digests == [sha256(uint8)]


@pytest.mark.parametrize("name", ["manifest.json", "mnist.onnx"])
def test_a_pipe_in_the_place_of_a_file_is_refused(serve, tmp_path, float32, uint8, name):
    publish_into(tmp_path, float32, "float32")
    server = serve("--model", tmp_path, "--reload")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    server.wait_for("refused")
    assert server.stop() == 0


def test_a_folder_that_vanishes_changes_nothing(serve, tmp_path, float32, uint8, digits):
    folder = tmp_path / "published"
    publish_into(folder, float32, "float32")
    server = serve("--model", folder, "--reload")
    shutil.rmtree(folder)
    assert server.infer(digits[:1]).json()["outputs"][2]["data"] == [7]
    publish_into(folder, uint8, "uint8")
    assert server.wait_for("reloaded")["sha256"] == [sha256(uint8)]
    assert not [line for line in server.log if line["event"] == "refused"]


def test_a_model_that_fails_parity_is_not_served_at_all(run, tmp_path, impostor):
    (tmp_path / "mnist.onnx").write_bytes(impostor)
    result = run("mnist-serve", "--port", "0", "--model", "mnist.onnx", cwd=tmp_path)
    (error_line,) = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert error_line.startswith("Error: mnist.onnx is not at parity: the logit of class")
    assert error_line.endswith("do not serve it on this machine")
