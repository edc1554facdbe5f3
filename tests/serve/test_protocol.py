"""The conformance table: single requests to the real server, and their responses."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mnist_runtime.digits import as_digits

INFER = "/v2/models/mnist/infer"
BLANK = [0] * 784
DEEP = "[" * 1000 + "]" * 1000
"""JSON nested almost as deeply as the parser allows."""
LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Case:
    """A request and its response."""

    name: str
    status: int
    sentence: str = ""
    """Part of the error's sentence."""
    method: str = "POST"
    path: str = INFER
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def tensor(**changes: Any) -> dict[str, Any]:
    """Return the input of one blank digit, changed; None leaves a field out."""
    whole = {"name": "pixels", "datatype": "UINT8", "shape": [1, 784], "data": BLANK, **changes}
    return {key: value for key, value in whole.items() if value is not None}


def ask(title: str, status: int, sentence: str = "", *, document: Any = None, **changes: Any) -> Case:
    """Return a case of a JSON request for one blank digit, with its input or, by `document`, its top level changed."""
    whole = {"inputs": [tensor(**changes)]}
    return Case(title, status, sentence, body=json.dumps({**whole, **document} if document else whole).encode())


def text(name: str, status: int, sentence: str, body: str) -> Case:
    return Case(name, status, sentence, body=body.encode())


def binary(
    title: str,
    status: int,
    sentence: str = "",
    *,
    data: bytes = bytes(784),
    length: object = "",
    extra: Any = None,
    **changes: Any,
) -> Case:
    """Return a case of one blank digit as bytes after the JSON."""
    asked = tensor(**{"data": None, "parameters": {"binary_data_size": 784}, **changes})
    head = json.dumps({"inputs": [asked], **(extra or {})}).encode()
    return Case(title, status, sentence, body=head + data, headers={LENGTH: str(length or len(head))})


def get(name: str, status: int, path: str, sentence: str = "", method: str = "GET") -> Case:
    return Case(name, status, sentence, method, path)


CASES = [
    # Paths and methods
    get("server", 200, "/v2"),
    get("live", 200, "/v2/health/live"),
    get("ready", 200, "/v2/health/ready"),
    get("model", 200, "/v2/models/mnist"),
    get("model of a version", 200, "/v2/models/mnist/versions/1"),
    get("model ready", 200, "/v2/models/mnist/ready"),
    get("model of a version ready", 200, "/v2/models/mnist/versions/1/ready"),
    get("metrics", 200, "/metrics"),
    get("openapi", 200, "/openapi.json"),
    get("head of the server", 200, "/v2", method="HEAD"),
    get("head of a model", 200, "/v2/models/mnist", method="HEAD"),
    get("nothing there", 404, "/v1/models", "there is nothing at /v1/models; the protocol begins at /v2"),
    get("no such model", 404, "/v2/models/cifar", "model 'cifar' is not served here; this server has mnist"),
    get("no such model ready", 404, "/v2/models/cifar/ready", "model 'cifar' is not served"),
    get("no such version", 404, "/v2/models/mnist/versions/2", "version '2' of mnist is not served here"),
    get("no such version ready", 404, "/v2/models/mnist/versions/latest/ready", "version 'latest' of mnist"),
    get("no such model, escaped", 404, "/v2/models/a%20b%0a", "model 'a b\\n' is not"),
    get("infer of no such model", 404, "/v2/models/cifar/infer", "model 'cifar' is not served", method="POST"),
    get("infer of no such version", 404, "/v2/models/mnist/versions/0/infer", "version '0' of mnist", method="POST"),
    get("get of infer", 405, INFER, "/v2/models/mnist/infer does not accept GET; use POST"),
    get("head of infer", 405, INFER, method="HEAD"),
    get("put of infer", 405, INFER, "use POST", method="PUT"),
    get("post of the server", 405, "/v2", "/v2 does not accept POST; use GET or HEAD", method="POST"),
    get("delete of a model", 405, "/v2/models/mnist", "use GET or HEAD", method="DELETE"),
    get(
        "trailing slash",
        404,
        "/v2/",
        "there is nothing at /v2/; the protocol begins at /v2, and no path ends in a slash",
    ),
    get("trailing slash of the model", 404, "/v2/models/mnist/", "no path ends in a slash"),
    get("trailing slash of a version", 404, "/v2/models/mnist/versions/1/", "no path ends in a slash"),
    get("trailing slash of infer", 404, INFER + "/", "no path ends in a slash", method="POST"),
    # Digits as JSON
    ask("uint8", 200),
    ask("uint8 with points", 200, data=[84.0, *BLANK[1:]]),
    ask("fp32", 200, datatype="FP32", data=[0.5] * 784),
    ask("fp32 as whole numbers", 200, datatype="FP32"),
    ask("nested", 200, data=[BLANK]),
    ask("two, flat", 200, shape=[2, 784], data=BLANK * 2),
    ask("two, nested", 200, shape=[2, 784], data=[BLANK, BLANK]),
    ask("none", 200, shape=[0, 784], data=[]),
    ask("by version", 200, document={}),
    ask("with an id", 200, document={"id": "a"}),
    ask("with an empty id", 200, document={"id": ""}),
    ask("with unknown parameters", 200, document={"parameters": {"priority": 1, "mine": "x"}}),
    ask("with unknown parameters of a tensor", 200, parameters={"content_type": "np"}),
    ask("with unknown fields", 200, document={"comment": [1, {"a": None}]}),
    ask("all outputs by an empty list", 200, document={"outputs": []}),
    # Errors in the document
    text("empty", 400, "the request is not JSON", ""),
    text(
        "no json",
        400,
        "the request is not JSON (JSON is malformed: invalid character (byte 0))",
        "pixels",
    ),
    text("half of it", 400, "the request is not JSON", '{"inputs": ['),
    text("two of it", 400, "(JSON is malformed: trailing characters", json.dumps({"inputs": [tensor()]}) + "{}"),
    text("a list", 400, "(Expected `object`, got `array`); /openapi.json describes what is wanted", "[]"),
    text("nothing in it", 400, "(Object missing required field `inputs`); send one input, pixels, UINT8", "{}"),
    *(
        text(
            f"deep {name}",
            400,
            sentence,
            json.dumps({"inputs": [tensor(**{name: 0})]}).replace(f'"{name}": 0', f'"{name}": {DEEP}'),
        )
        for name, sentence in (
            ("name", "Expected `str`, got `array` - at `$.inputs[0].name`"),
            ("datatype", "Expected `str`, got `array` - at `$.inputs[0].datatype`"),
            ("shape", "Expected `int`, got `array` - at `$.inputs[0].shape[0]`"),
            ("data", "the request is not JSON (maximum recursion depth exceeded"),
        )
    ),
    text("too deep", 400, "the request is not JSON (maximum recursion", '{"x": ' + "[" * 1025),
    ask("an id of brackets", 200, document={"id": "[" * 2_000}),
    ask(
        "an image a digit",
        400,
        "28 - at `$.inputs[0].shape[1]`); send one input, pixels, UINT8 (0-255) or FP32 (0-1)",
        shape=[99, 28, 28],
        data=[[[0] * 28] * 28] * 99,
    ),
    text("too many lists", 400, "missing required field `inputs`", '{"x": [' + "[]," * 100_000 + "[]]}"),
    text("too many objects", 400, "missing required field `inputs`", '{"x": [' + "{}," * 100_000 + "{}]}"),
    Case("not unicode", 400, "the request is not JSON", body=b'{"id": "\xff"}'),
    ask("inputs no list", 400, "Expected `array`, got `object` - at `$.inputs`", document={"inputs": {}}),
    ask("no inputs", 400, "Expected `array` of length 1 - at `$.inputs`", document={"inputs": []}),
    ask("two inputs", 400, "Expected `array` of length 1 - at `$.inputs`", document={"inputs": [tensor(), tensor()]}),
    ask("an input no object", 400, "Expected `object`, got `int` - at `$.inputs[0]`", document={"inputs": [7]}),
    ask("id no string", 400, "Expected `str | null`, got `int` - at `$.id`", document={"id": 7}),
    ask(
        "parameters no object",
        400,
        "Expected `object | null`, got `int` - at `$.parameters`",
        document={"parameters": 1},
    ),
    # Errors in the tensor
    ask("unknown input", 400, "the input 'image' is unknown; this model has one, pixels", name="image"),
    ask("nameless input", 400, "Object missing required field `name` - at `$.inputs[0]`", name=None),
    ask(
        "unknown datatype",
        400,
        "Invalid enum value 'FP64' - at `$.inputs[0].datatype`); send one input, pixels, UINT8 (0-255) or FP32 (0-1)",
        datatype="FP64",
    ),
    ask("no datatype", 400, "Object missing required field `datatype`", datatype=None),
    ask("datatype no string", 400, "Expected `str`, got `array` - at `$.inputs[0].datatype`", datatype=["UINT8"]),
    ask("no shape", 400, "Object missing required field `shape`", shape=None),
    ask("square shape", 400, "of shape [N, 784]; flatten each digit", shape=[1, 28, 28]),
    ask("shape of one", 400, "Expected `array` of length 2 - at `$.inputs[0].shape`", shape=[784]),
    ask("other width", 400, "Invalid enum value 783 - at `$.inputs[0].shape[1]`", shape=[1, 783]),
    ask("negative shape", 400, "Expected `int` >= 0 - at `$.inputs[0].shape[0]`", shape=[-1, 784]),
    ask("fractional shape", 400, "Expected `int`, got `float` - at `$.inputs[0].shape[0]`", shape=[1.0, 784]),
    ask("fractional width", 400, "Expected `int`, got `float` - at `$.inputs[0].shape[1]`", shape=[1, 784.0]),
    ask("boolean shape", 400, "Expected `int`, got `bool` - at `$.inputs[0].shape[0]`", shape=[True, 784]),
    ask("endless shape", 400, "needs 784,000,000,000,000 values, but the data of pixels has 784", shape=[10**12, 784]),
    ask("too few values", 400, "needs 784 values, but the data of pixels has 783; make shape", data=BLANK[1:]),
    ask("too many digits", 400, "needs 784 values, but the data of pixels has 1,568", data=BLANK * 2),
    ask(
        "ragged",
        400,
        "Expected `array` of length >= 784 - at `$[0]`); send a list of 1,568 numbers, or one list of 784",
        shape=[2, 784],
        data=[BLANK[1:], [0, *BLANK]],
    ),
    ask("nested too deeply", 400, "Expected `float`, got `array` - at `$[0][0]`", data=[[[0] * 28] * 28]),
    ask("no data", 400, "pixels must have either data or the parameter binary_data_size", data=None),
    ask(
        "data no list",
        400,
        "the data of pixels are not numbers of that shape (Expected `array`, got `str`); send a list of 784 numbers",
        data="AAAA",
    ),
    ask(
        "a string among them",
        400,
        "the data of pixels are not numbers of that shape (Expected `float`, got `str` - at `$[0]`)",
        data=["0", *BLANK[1:]],
    ),
    ask("null among them", 400, "Expected `float`, got `null` - at `$[0]`", data=[None, *BLANK[1:]]),
    ask("a boolean among them", 400, "Expected `float`, got `bool` - at `$[0]`", data=[True, *BLANK[1:]]),
    ask("a list among them", 400, "Expected `float`, got `array` - at `$[1]`", data=[0, BLANK, *BLANK[2:]]),
    ask(
        "a fraction among uint8",
        400,
        "UINT8 data must be whole numbers from 0 to 255, and 0.5 is among them",
        data=[0.5, *BLANK[1:]],
    ),
    ask(
        "uint8 of 256",
        400,
        "UINT8 data must be whole numbers from 0 to 255, and 256 is among them",
        data=[256, *BLANK[1:]],
    ),
    ask("uint8 below 0", 400, "and -1 is among them", data=[-1, *BLANK[1:]]),
    ask("uint8 beyond int64", 400, "and 9.22337e+18 is among them", data=[2**63, *BLANK[1:]]),
    ask("uint8 beyond uint64", 400, "and 1.18059e+21 is among them", data=[2**70, *BLANK[1:]]),
    ask("fp32 of 255", 400, "pixels: floats must lie within [0, 1]", datatype="FP32", data=[255, *BLANK[1:]]),
    ask("fp32 below 0", 400, "floats must lie within [0, 1]", datatype="FP32", data=[-0.1, *BLANK[1:]]),
    ask("fp32 of 1e39", 400, "these reach 1e+39", datatype="FP32", data=[1e39, *BLANK[1:]]),
    ask(
        "fp32 of 10**400",
        400,
        "Number out of range - at `$[0]`",
        datatype="FP32",
        data=[10**400, *BLANK[1:]],
    ),
    ask(
        "fp32 NaN",
        400,
        "the request is not JSON (",
        datatype="FP32",
        data=[float("nan")] * 784,
    ),
    ask("fp32 Infinity", 400, "the request is not JSON (", datatype="FP32", data=[float("inf")] * 784),
    # Errors in the outputs
    ask(
        "unknown output",
        400,
        "the output 'scores' is unknown; this model has logits",
        document={"outputs": [{"name": "scores"}]},
    ),
    ask("output no object", 400, "Expected `object`, got `str` - at `$.outputs[0]`", document={"outputs": ["label"]}),
    ask("outputs no list", 400, "Expected `array | null`, got `str` - at `$.outputs`", document={"outputs": "label"}),
    ask("output twice", 400, "the output label is requested twice", document={"outputs": [{"name": "label"}] * 2}),
    ask(
        "binary_data no boolean",
        400,
        "Expected `bool | null`, got `int` - at `$.outputs[0].parameters.binary_data`",
        document={"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
    ),
    ask(
        "binary_data_output no boolean",
        400,
        "Expected `bool`, got `str` - at `$.parameters.binary_data_output`",
        document={"parameters": {"binary_data_output": "yes"}},
    ),
    ask(
        "classification",
        400,
        "is of an extension not served here; request the outputs label and",
        document={"outputs": [{"name": "label", "parameters": {"classification": 3}}]},
    ),
    ask(
        "shared memory",
        400,
        "parameters.shared_memory_region`); it is of an extension not served here; send the tensors in the body",
        parameters={"shared_memory_region": "x"},
    ),
    # Digits as bytes
    binary("binary uint8", 200),
    binary("binary fp32", 200, data=bytes(3136), datatype="FP32", parameters={"binary_data_size": 3136}),
    binary("binary none", 200, data=b"", shape=[0, 784], parameters={"binary_data_size": 0}),
    binary("binary answer", 200, extra={"parameters": {"binary_data_output": True}}),
    Case("raw digits", 200, body=np.zeros((3, 784), np.float32).tobytes(), headers={LENGTH: "0"}),
    Case("raw nothing", 400, "the body is empty; send the pixels of at least one digit", headers={LENGTH: "0"}),
    Case(
        "raw bytes that are no digits",
        400,
        "but pixels has 783; make shape and data agree",
        body=bytes(783),
        headers={LENGTH: "0"},
    ),
    binary(
        "binary too few",
        400,
        "of UINT8 needs 784 bytes, but pixels has 783",
        data=bytes(783),
        parameters={"binary_data_size": 783},
    ),
    binary("binary of another datatype", 400, "of FP32 needs 3,136 bytes, but pixels has 784", datatype="FP32"),
    binary(
        "binary size of another body", 400, "binary_data_size is 784, but 785 bytes follow the JSON", data=bytes(785)
    ),
    binary(
        "binary size no number",
        400,
        "Expected `int | null`, got `str` - at `$.inputs[0].parameters.binary_data_size`",
        parameters={"binary_data_size": "784"},
    ),
    binary(
        "binary size and data",
        400,
        "pixels must have either data or the parameter binary_data_size",
        data=bytes(784),
        extra={"inputs": [tensor(parameters={"binary_data_size": 784})]},
    ),
    binary(
        "binary nobody asked for",
        400,
        "784 bytes follow the JSON, but no input has the parameter",
        extra={"inputs": [tensor()]},
    ),
    binary(
        "binary NaN",
        400,
        "pixels: there is a NaN among the pixels",
        data=np.full(784, np.nan, "<f4").tobytes(),
        datatype="FP32",
        parameters={"binary_data_size": 3136},
    ),
    binary(
        "binary of 255.0",
        400,
        "pixels: floats must lie within [0, 1]",
        data=np.full(784, 255, "<f4").tobytes(),
        datatype="FP32",
        parameters={"binary_data_size": 3136},
    ),
    binary(
        "length beyond the body",
        400,
        "Inference-Header-Content-Length is '99999'; it must be the number of bytes of JSON",
        length=99999,
    ),
    binary("length no number", 400, "Inference-Header-Content-Length is 'all'", length="all"),
    binary("length negative", 400, "Inference-Header-Content-Length is '-1'", length=-1),
    binary(
        "length of a thousand digits",
        400,
        "Inference-Header-Content-Length is '99999999999999999999'",
        length="9" * 1000,
    ),
    binary("length too short", 400, "the request is not JSON", length=20),
    Case("binary without a length", 400, "set Inference-Header-Content-Length to where", body=b"{}" + bytes(784)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_request_gets_its_status_and_error(server, case):
    answer = server.http.request(case.method, case.path, content=case.body, headers=case.headers)
    assert answer.status_code == case.status, answer.text
    if case.status >= 400 and case.method != "HEAD":
        assert list(answer.json()) == ["error"]
        assert case.sentence in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
    assert (answer.status_code == 405) == ("allow" in answer.headers)


def test_the_table_is_long_enough_and_its_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_metadata_describe_the_model(server, classifier):
    document = server.http.get("/v2/models/mnist").json()
    assert document == {
        "name": "mnist",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 784]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "no_digit", "datatype": "FP32", "shape": [-1]},
            {"name": "verdict", "datatype": "INT64", "shape": [-1]},
        ],
        "properties": {"sha256": " ".join(classifier.digests)},
    }
    assert server.http.get("/v2/models/mnist/versions/1").json() == document
    assert server.http.get("/v2").json()["extensions"] == ["binary_tensor_data"]


def test_health_follows_the_protocol(server):
    assert server.http.get("/v2/health/live").json() == {"live": True}
    assert server.http.get("/v2/health/ready").json() == {"ready": True}
    assert server.http.get("/v2/models/mnist/ready").json() == {"name": "mnist", "ready": True}


def test_real_digits_get_the_answers_of_the_classifier(server, classifier, digits):
    document = server.infer(digits).json()
    assert (document["model_name"], document["model_version"]) == ("mnist", "1")
    assert "id" not in document
    outputs = {output["name"]: output for output in document["outputs"]}
    assert list(outputs) == ["logits", "probabilities", "label", "no_digit", "verdict"]
    assert [(outputs[name]["datatype"], outputs[name]["shape"]) for name in outputs] == [
        ("FP32", [100, 10]),
        ("FP32", [100, 10]),
        ("INT64", [100]),
        ("FP32", [100]),
        ("INT64", [100]),
    ]
    computed = classifier.compute(as_digits(digits))
    assert outputs["logits"]["data"] == computed.logits.ravel().tolist()
    assert outputs["probabilities"]["data"] == computed.probabilities.ravel().tolist()
    assert outputs["label"]["data"] == classifier.predict(digits).tolist()
    assert outputs["no_digit"]["data"] == computed.no_digit.tolist()
    assert outputs["verdict"]["data"] == computed.verdicts.tolist()


def test_verdicts_are_answered_and_follow_max_error(serve, server):
    dash = np.zeros((1, 28, 28), np.uint8)
    dash[0, 13:16, 4:24] = 255
    answer = server.infer(dash.reshape(1, 784), outputs=[{"name": "no_digit"}, {"name": "verdict"}])
    no_digit, verdict = (output["data"][0] for output in answer.json()["outputs"])
    assert no_digit > 0.5
    assert verdict == 2
    for max_error, verdict in (("0.001", [1]), ("1", [0])):
        linear = serve("--model", "linear", "--max-error", max_error)
        assert linear.infer(dash.reshape(1, 784), outputs=[{"name": "verdict"}]).json()["outputs"][0]["data"] == verdict


def test_floats_and_intensities_of_a_digit_get_the_same_answer(server, digits):
    scaled = digits[:10].astype(np.float32) / 256
    assert server.infer(scaled).json() == server.infer(digits[:10]).json()


@pytest.mark.parametrize("graph", ["mnist-linear.onnx", "mnist-linear.uint8.onnx"])
def test_either_graph_takes_either_datatype(serve, bundled, digits, graph):
    server = serve("--model", bundled.with_name(graph), "--name", "other.one")
    url = "/v2/models/other.one"
    assert server.http.get(url).json()["inputs"][0]["datatype"] == ("UINT8" if "uint8" in graph else "FP32")
    answers = [
        server.http.post(f"{url}/infer", json=server.document(each)).json()["outputs"][2]["data"]
        for each in (digits, digits.astype(np.float32) / 256)
    ]
    assert answers[0] == answers[1]
    fine, nearest = (
        server.http.post(f"{url}/infer", json=server.document(np.full((1, 784), value, np.float32))).json()
        for value in (0.3, 77 / 256)
    )
    assert (fine == nearest) == ("uint8" in graph)


def test_outputs_are_in_the_requested_order_and_the_id_is_returned(server, digits):
    wanted = [{"name": "label"}, {"name": "logits"}]
    document = server.infer(digits[:2], id="ä 42", outputs=wanted).json()
    assert document["id"] == "ä 42"
    assert [output["name"] for output in document["outputs"]] == ["label", "logits"]


def test_binary_and_json_outputs_can_be_mixed(server, classifier, digits):
    wanted = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "label", "parameters": {"binary_data": False}},
        {"name": "logits"},
    ]
    answer = server.infer(digits[:3], outputs=wanted, parameters={"binary_data_output": True})
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[LENGTH])
    document, rest = json.loads(answer.content[:length]), answer.content[length:]
    sizes = [output.get("parameters", {}).get("binary_data_size") for output in document["outputs"]]
    assert sizes == [120, None, 120]
    computed = classifier.compute(as_digits(digits[:3]))
    assert rest == computed.probabilities.tobytes() + computed.logits.tobytes()
    assert document["outputs"][1]["data"] == computed.labels.tolist()


def test_whole_numbers_may_be_written_with_a_point(server, digits):
    answers = [server.infer(digits[:1]), server.http.post(INFER, json=server.document(digits[:1].astype(float)))]
    document = json.loads(answers[1].request.content)
    assert document["inputs"][0]["datatype"] == "FP32"
    document["inputs"][0]["datatype"] = "UINT8"
    assert server.http.post(INFER, json=document).content == answers[0].content


def test_blanks_around_the_length_of_the_json_are_ignored(server, digits):
    head = json.dumps({"inputs": [tensor(data=None, parameters={"binary_data_size": 784})]}).encode()
    length = f"{LENGTH}: \t{len(head)} \t"
    with server.send(head + digits[:1].tobytes(), length) as connection:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
