"""openapi.json, to which the server conforms, as schemathesis checks."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import httpx

from mnist_runtime import __version__
from mnist_serve import ServedModel, create_app

COMMAND = Path(sys.executable).parent / "schemathesis"


def test_schemathesis_finds_no_deviation_from_the_document(server, tmp_path):
    """One check is left out, because no schema can express that shape and data agree."""
    command = [COMMAND, "run", f"{server.url}/openapi.json", "--no-color"]
    bounds = ["--max-examples", "5", "--phases", "examples,coverage,fuzzing", "--seed", "1"]
    checks = ["--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(
        [*command, *bounds, *checks], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"Tested: (\d+)", done.stdout)[1]) >= 10


def test_every_route_is_in_the_document_and_no_other(server, classifier):
    model = ServedModel(classifier)
    app = create_app(model)
    assert set(server.http.get("/openapi.json").json()["paths"]) == {route.path for route in app.routes}
    without = create_app(model, page=False)
    assert set(ask(without, "/openapi.json")["paths"]) == {route.path for route in without.routes}


def test_the_names_of_model_and_server_are_filled_in(classifier):
    document = ask(create_app(ServedModel(classifier, 'a "b"')), "/openapi.json")
    assert document["info"]["version"] == __version__
    assert document["components"]["parameters"]["model"]["schema"]["enum"] == ['a "b"']
    assert "MODEL_NAME" not in str(document)
    assert "SERVER_VERSION" not in str(document)


def ask(app, path):
    async def get():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
            return (await http.get(path)).json()

    return asyncio.run(get())


def test_the_example_in_the_document_is_answered(server):
    bodies = server.http.get("/openapi.json").json()["components"]["requestBodies"]
    example = bodies["Infer"]["content"]["application/json"]["example"]
    answer = server.http.post("/v2/models/mnist/infer", json=example)
    assert answer.status_code == 200
    assert answer.json()["id"] == example["id"]
