"""Records of mnist-infer, which conform to the published JSON Schema."""

import csv
import io
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from mnist_runtime import Classifier

SCHEMA = json.loads(files("mnist_runtime").joinpath("infer/schema/prediction.schema.json").read_text())
DETAILS = [[], ["--top-k", "3"], ["--top-k", "10", "--probabilities"]]


@pytest.fixture(scope="module")
def digits(test_split, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, images=test_split.images[:20], labels=test_split.labels[:20])
    return path


def from_csv(text):
    """Yield the record that each row holds in columns."""
    for row in csv.DictReader(io.StringIO(text)):
        record = {
            "schema": int(row["schema"]),
            "source": row["source"],
            "index": int(row["index"]),
            "verdict": row["verdict"],
            "label": int(row["label"]),
            "probability": float(row["probability"]),
            "no_digit": float(row["no_digit"]),
        }
        if "top2_label" in row:
            more = [rank for rank in range(2, 11) if f"top{rank}_label" in row]
            record["top"] = [{key: record[key] for key in ("label", "probability")}] + [
                {"label": int(row[f"top{rank}_label"]), "probability": float(row[f"top{rank}_probability"])}
                for rank in more
            ]
        record["probabilities"] = [float(row[f"probability_{label}"]) for label in range(10)]
        yield record


PARSERS = {
    "json": json.loads,
    "jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
    "csv": lambda text: list(from_csv(text)),
}


@pytest.mark.parametrize("detail", DETAILS, ids=" ".join)
def test_all_formats_hold_the_same_records_which_fit_the_schema(run, digits, test_split, detail):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    found = []
    for format_, parse in PARSERS.items():
        result = run("mnist-infer", digits, "--model", "cnn", "--format", format_, *detail)
        assert result.returncode == 0, result.stderr
        found.append(parse(result.stdout.decode()))
        for record in found[-1]:
            validator.validate(record)
            assert ("top" in record) == ("--top-k" in detail)
    assert found[0] == found[1] == found[2]
    assert [(record["source"], record["index"]) for record in found[0]] == [(f"{digits}:images", i) for i in range(20)]
    for record, prediction in zip(found[0], Classifier().predictions(test_split.images[:20]), strict=True):
        assert record.items() >= prediction.to_dict().items()


def test_the_schema_is_valid_and_refuses_other_records():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    good = {"schema": 2, "source": "-", "index": 0, "verdict": "digit", "label": 7, "probability": 0.5}
    good |= {"no_digit": 0.0, "probabilities": [0.1] * 10}
    jsonschema.validate(good, SCHEMA)
    for bad in (
        {"label": 10},
        {"schema": 1},
        {"verdict": "maybe"},
        {"probability": 1.5},
        {"colour": "red"},
        {"index": -1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **bad}, SCHEMA)
