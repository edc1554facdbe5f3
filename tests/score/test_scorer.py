"""The actor, called as Ray Data calls it: one output per shard, whole or not at all."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_runtime.digits import UPRIGHT, as_digits
from mnist_runtime.verdicts import VERDICTS
from mnist_score.job import Job
from mnist_score.rows import open_rows
from mnist_score.scorer import ROW_GROUP, Scorer
from mnist_score.shards import list_shards
from mnist_score.storage import Place


@pytest.fixture
def score(plain, tmp_path):
    """Function that scores every shard of tmp_path/in, and returns the reports."""
    (tmp_path / "in").mkdir()

    def score(*, probabilities=False, report_every=2**30):
        folder, shards = list_shards(Place.at(str(tmp_path / "in")))
        job = Job.of(folder.name, plain, UPRIGHT, probabilities=probabilities)
        scorer = Scorer(plain, job, folder, Place.at(str(tmp_path / "out")), report_every)
        reports = []
        for shard in shards:
            columns = {
                "name": [shard.name],
                "size": [shard.size],
                "mtime_ns": [shard.mtime_ns],
                "ctime_ns": [shard.ctime_ns],
            }
            reports += [{key: value for key, (value,) in report.items()} for report in scorer(columns)]
        return reports

    return score


def test_the_answers_equal_those_of_the_plain_runtime_row_by_row(score, plain, real, tmp_path, write_shard):
    digits = real.reshape(-1, 784)
    write_shard(tmp_path / "in" / "a.parquet", digits, first=7)
    assert [(report["rows"], report["done"]) for report in score()] == [(0, False), (70_000, True)]
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.schema.names == ["number", "label", "probability", "verdict"]
    assert table.schema.field("label").type == pa.uint8()
    assert table.schema.field("probability").type == pa.float32()
    assert np.array_equal(table["number"].to_numpy(), np.arange(7, 70_007))
    assert np.array_equal(table["label"].to_numpy(), plain.predict(digits))
    assert np.array_equal(table["probability"].to_numpy(), plain.predict_proba(digits).max(axis=1))


def test_all_ten_probabilities_are_columns_named_as_in_the_csv_of_mnist_infer(score, plain, real, tmp_path):
    np.save(tmp_path / "in" / "a.npy", real[:9000])
    score(probabilities=True)
    table = pq.read_table(tmp_path / "out" / "a.npy.parquet")
    names = [f"probability_{label}" for label in range(10)]
    assert table.schema.names == ["label", "probability", "verdict", "no_digit", *names]
    outputs = plain.compute(as_digits(real[:9000]))
    assert table["verdict"].to_pylist() == [VERDICTS[index] for index in outputs.verdicts]
    assert np.array_equal(table["no_digit"].to_numpy(), outputs.no_digit)
    ten = np.stack([table[name].to_numpy() for name in names], axis=1)
    assert ten.dtype == np.float32
    assert np.array_equal(ten, plain.predict_proba(real[:9000]))
    assert np.array_equal(table["label"].to_numpy(), plain.predict(real[:9000]))


def test_floats_are_scored_as_floats(score, plain, real, tmp_path):
    floats = (real[:3000] / np.float32(300)).astype(np.float32)  # no multiples of 1/256
    np.save(tmp_path / "in" / "a.npy", floats)
    score()
    table = pq.read_table(tmp_path / "out" / "a.npy.parquet")
    assert np.array_equal(table["probability"].to_numpy(), plain.predict_proba(floats).max(axis=1))


def test_row_groups_are_bounded_and_columns_keep_their_types_and_metadata(score, real, tmp_path, column):
    fields = [
        pa.field("writer", pa.dictionary(pa.int32(), pa.string()), metadata={"from": "NIST"}),
        pa.field("pixels", pa.binary(784)),
        pa.field("when", pa.timestamp("ms", "UTC")),
    ]
    count = len(real)
    writers = pa.array([f"w{i % 500}" for i in range(count)]).dictionary_encode()
    when = pa.array(range(count), fields[2].type)
    table = pa.table([writers, column(real), when], pa.schema(fields, {"pandas": "{}", "ours": "yes"}))
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    score()
    output = pq.ParquetFile(tmp_path / "out" / "a.parquet")
    groups = [output.metadata.row_group(i).num_rows for i in range(output.num_row_groups)]
    assert groups == [ROW_GROUP, count - ROW_GROUP]
    answers = output.read()
    assert answers.schema.field("writer").equals(fields[0], check_metadata=True)
    assert answers.select(["writer", "when"]).equals(table.select(["writer", "when"]))
    assert set(output.schema_arrow.metadata) == {b"mnist_score"}


def test_an_empty_shard_has_an_empty_output(score, tmp_path):
    np.save(tmp_path / "in" / "a.npy", np.empty((0, 28, 28), np.uint8))
    assert score()[-1] == {"shard": "a.npy", "rows": 0, "count": 0, "done": True, "error": ""}
    assert pq.read_table(tmp_path / "out" / "a.npy.parquet").num_rows == 0


def test_a_large_shard_reports_its_progress(score, shifted, tmp_path):
    np.save(tmp_path / "in" / "a.npy", np.concatenate([shifted(k) for k in range(4)]))
    reports = score(report_every=100_000)
    assert [report["rows"] for report in reports] == [0, 2 * ROW_GROUP, 4 * ROW_GROUP, 280_000]
    assert [report["done"] for report in reports] == [False, False, False, True]
    assert {report["count"] for report in reports} == {280_000}


def test_the_footer_holds_the_resume_record(score, plain, real, tmp_path, write_shard):
    write_shard(tmp_path / "in" / "b" / "a.parquet", real[:10])
    score()
    record = json.loads(pq.read_schema(tmp_path / "out" / "b" / "a.parquet").metadata[b"mnist_score"])
    status = (tmp_path / "in" / "b" / "a.parquet").stat()
    assert record == {
        "schema": 2,
        "input": f"local://{tmp_path}/in",
        "models": sorted(plain.digests),
        "output": "labels",
        "max_error": None,
        "invert": False,
        "transpose": False,
        "shard": {
            "name": "b/a.parquet",
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
        },
    }


def flip_a_pixel(path):
    """Flip one bit of a pixel, which only the page's checksum detects."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 10), "Parquet magic bytes not found"),
        (flip_a_pixel, "CRC checksum"),
        (lambda path: path.write_bytes(b""), "Parquet file size is 0 bytes"),
    ],
    ids=["truncated", "a flipped bit", "empty"],
)
def test_a_damaged_shard_ends_in_one_sentence(score, real, tmp_path, damage, sentence, write_shard):
    path = tmp_path / "in" / "a.parquet"
    write_shard(path, real[:50_000], compression="none", write_page_checksum=True)
    damage(path)
    report = score()[-1]
    assert not report["done"]
    assert report["error"].startswith(("a.parquet cannot be scored (", "a.parquet cannot be read ("))
    assert sentence in report["error"]
    assert "\n" not in report["error"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_column_that_the_answer_needs_is_refused(score, real, tmp_path, column):
    table = pa.table({"pixels": column(real[:5]), "probability": [1, 2, 3, 4, 5]})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    assert score()[-1]["error"] == "a.parquet has a column probability, which is for the answers; rename it"


def test_bad_digits_in_the_middle_of_a_shard_leave_no_output(score, real, tmp_path):
    floats = np.repeat(real[:1000] / np.float32(256), 20, axis=0).astype(np.float32)
    floats[15_000, 3, 3] = np.nan
    np.save(tmp_path / "in" / "a.npy", floats)
    assert "a.npy: there is a NaN among the pixels" in score()[-1]["error"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_shard_is_read_a_batch_at_a_time(tmp_path, real, write_shard):
    write_shard(tmp_path / "a.parquet", real)
    with open_rows(Place.at(str(tmp_path)), "a.parquet") as rows:
        before = pa.total_allocated_bytes()
        peak = max(pa.total_allocated_bytes() - before for _ in rows.batches)
    assert peak < 30 * 2**20  # of 52 MiB of pixels
