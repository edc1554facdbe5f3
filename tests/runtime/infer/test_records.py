"""Every record that mnist-infer prints is what the published JSON Schema says."""

import csv
import io
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

SCHEMA = json.loads(files("mnist_runtime").joinpath("infer/schema/prediction.schema.json").read_text())
DETAILS = [[], ["--top-k", "3"], ["--top-k", "10", "--probabilities"]]


@pytest.fixture(scope="module")
def digits(test_split, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, images=test_split.images[:20], labels=test_split.labels[:20])
    return path


def from_csv(text):
    """Put a row's columns back into the record they were spread from."""
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
def test_all_formats_tell_the_same_and_fit_the_schema(run, digits, detail):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    told = []
    for form, parse in PARSERS.items():
        result = run("mnist-infer", digits, "--format", form, *detail)
        assert result.returncode == 0, result.stderr
        told.append(parse(result.stdout.decode()))
        for record in told[-1]:
            validator.validate(record)
            assert ("top" in record) == ("--top-k" in detail)
    assert len(told[0]) == 20
    assert told[0] == told[1] == told[2]


def test_the_schema_is_a_schema_and_refuses_what_it_does_not_know():
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
