"""The server does what its own OpenAPI document says, as schemathesis finds it."""

import re
import subprocess
import sys
from pathlib import Path

from mnist_serve import ServedModel, create_app, page
from mnist_serve.openapi import document

COMMAND = Path(sys.executable).parent / "schemathesis"


def test_schemathesis_finds_nothing_that_the_document_does_not_say(server, tmp_path):
    """One of its checks is left out: no schema can say that shape and data agree, so not all that fits is valid."""
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
    app = create_app(model, routes=page.routes(lambda: classifier))
    assert set(server.http.get("/openapi.json").json()["paths"]) == {route.path for route in app.routes}
    without = create_app(model)
    assert set(document("mnist", [route.path for route in without.routes])["paths"]) == {
        route.path for route in without.routes
    }


def test_the_example_in_the_document_is_answered(server):
    infer = server.http.get("/openapi.json").json()["paths"]["/v2/models/{model}/infer"]["post"]
    example = infer["requestBody"]["content"]["application/json"]["example"]
    answer = server.http.post("/v2/models/mnist/infer", json=example)
    assert answer.status_code == 200
    assert answer.json()["id"] == example["id"]
