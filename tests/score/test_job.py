"""Resume records, and the parts of a .npy."""

import os
from pathlib import Path

import pytest

from mnist_score.job import Job, Part, Shard

JOB = Job("local:///digits", ["a", "b"], "probabilities")


def test_a_record_holds_the_job_and_the_details():
    assert Job.of_record(JOB.record(rows=[0, 7])) == (JOB, {"rows": [0, 7]})


@pytest.mark.parametrize(
    "text", [b"", b"my notes", b"{}", b"[1]", b"\xff", b'{"schema": 1, "input": "x"}', b"[" * 10**5]
)
def test_other_text_is_refused_as_a_record(text):
    with pytest.raises(ValueError, match="no record of mnist-score"):
        Job.of_record(text)


def test_a_file_that_is_rewritten_with_the_old_time_is_another_shard(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"one")
    before, status = Shard.of_file("x.npy", path), path.stat()
    assert Shard.of_file("x.npy", path) == before
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Shard.of_file("x.npy", path) != before


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 5, 50_000])
def test_the_parts_hold_each_digit_once_and_are_of_near_equal_size(total, count):
    parts = [Part(index, count).rows(total) for index in range(1, count + 1)]
    assert [row for part in parts for row in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_of_several_parts_has_its_own_file():
    assert Part(2, 8).path(Path("out/labels.npy")) == Path("out/labels.2-of-8.npy")
    assert Part(1, 1).path(Path("out/labels.npy")) == Path("out/labels.npy")
