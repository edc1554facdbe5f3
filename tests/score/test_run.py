"""Plans of runs: missing and changed shards, and outputs that are refused."""

import json
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_runtime import Classifier, FileMissingError, FileReadError, FileWriteError, OptionError
from mnist_runtime.digits import UPRIGHT
from mnist_score import run
from mnist_score.job import Job, Shard
from mnist_score.scorer import Report, Scorer
from mnist_score.shards import list_shards
from mnist_score.storage import Place


@pytest.fixture
def shards(real, write_shard, tmp_path):
    """Three shards, in a folder of folders."""
    folder = tmp_path / "in"
    write_shard(folder / "2025" / "a.parquet", real[:100])
    write_shard(folder / "2026" / "a.parquet", real[100:300])
    np.save(folder / "b.npy", real[300:600])
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def plan(plain, shards, output):
    def plan(given=shards, output=output, classifier=plain, *, probabilities=False):
        return run.plan(classifier, str(given), str(output), probabilities=probabilities)

    return plan


@pytest.fixture
def score(plan, plain):
    """Function that scores the missing shards of a plan, without Ray."""

    def score(planned):
        for shard in planned.missing:
            assert list(Scorer(plain, planned.job, planned.folder, planned.output, 2**30).score(shard))[-1].done

    return score


@pytest.fixture
def finish(plan, score, plain):
    """Function that scores everything, and writes the manifest."""

    def finish():
        score(plan())
        assert run.run(plan(), plain, None, None)

    return finish


def names(found):
    return [shard.name for shard in found]


def test_at_first_every_shard_is_missing(plan):
    planned = plan()
    assert names(planned.missing) == ["2025/a.parquet", "2026/a.parquet", "b.npy"]
    assert [shard.output for shard in planned.missing] == ["2025/a.parquet", "2026/a.parquet", "b.npy.parquet"]
    assert planned.scored == {}
    assert not planned.complete


def test_scored_shards_are_not_missing_and_are_listed_in_the_manifest(plan, score, plain, output, capfd):
    score(plan())
    planned = plan()
    assert planned.missing == []
    assert {shard.name: rows for shard, rows in planned.scored.items()} == {
        "2025/a.parquet": 100,
        "2026/a.parquet": 200,
        "b.npy": 300,
    }
    assert run.run(planned, plain, None, None)  # a run that was killed before it wrote the manifest
    manifest = json.loads((output / "_manifest.json").read_text())
    assert manifest["rows"] == 600
    assert manifest["models"] == sorted(plain.digests)
    assert [(shard["name"], shard["output"], shard["rows"]) for shard in manifest["shards"]] == [
        ("2025/a.parquet", "2025/a.parquet", 100),
        ("2026/a.parquet", "2026/a.parquet", 200),
        ("b.npy", "b.npy.parquet", 300),
    ]
    before = (output / "_manifest.json").stat().st_mtime_ns
    assert plan().complete
    assert run.run(plan(), plain, None, None)
    assert (output / "_manifest.json").stat().st_mtime_ns == before
    assert capfd.readouterr().err.splitlines() == [
        f"Wrote {output}: 600 digits of 3 shards, and _manifest.json.",
        f"Nothing to do: {output} has all 3 shards.",
    ]


@pytest.mark.parametrize("change", ["size", "time", "digits"])
def test_a_shard_that_has_changed_is_missing_again_and_its_old_answers_are_gone(
    plan, finish, shards, output, change, capfd
):
    finish()
    if change == "size":
        np.save(shards / "b.npy", np.zeros((7, 784), np.uint8))
    elif change == "time":
        os.utime(shards / "b.npy", (1, 1))
    else:
        status = (shards / "b.npy").stat()
        np.save(shards / "b.npy", np.zeros((300, 28, 28), np.uint8))
        os.utime(shards / "b.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names(plan().missing) == ["b.npy"]
    assert "Scoring again what has changed: 1 shard." in capfd.readouterr().err
    assert not (output / "b.npy.parquet").exists()
    assert not (output / "_manifest.json").exists()
    assert (output / "2025" / "a.parquet").exists()


def test_a_new_shard_is_missing_and_the_manifest_waits_for_it(plan, finish, shards, output):
    finish()
    np.save(shards / "c.npy", np.zeros((3, 784), np.uint8))
    assert names(plan().missing) == ["c.npy"]
    assert not (output / "_manifest.json").exists()


def test_unfinished_files_of_killed_runs_are_removed_and_other_files_kept(plan, output):
    output.mkdir()
    for name in (".a.parquet.0123abcd.mnist-score.tmp", "notes.txt", ".hidden"):
        (output / name).write_text("x")
    plan()
    assert sorted(path.name for path in output.iterdir()) == [".hidden", "notes.txt"]


def test_outputs_of_another_model_are_refused_and_kept(plan, score, bundled, output):
    score(plan())
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other = Classifier(bundled)  # one of the two graphs
    with pytest.raises(
        FileWriteError, match=r"is from another run, whose models was \[.*\] and not \[.*\]; give another"
    ):
        plan(classifier=other)
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_outputs_with_other_options_are_refused(plan, score):
    score(plan())
    with pytest.raises(FileWriteError, match="whose output was labels and not probabilities; give another folder"):
        plan(probabilities=True)


def test_outputs_of_another_input_are_refused(plan, score, shards, tmp_path):
    score(plan())
    shards.rename(tmp_path / "moved")
    with pytest.raises(FileWriteError, match=re.escape(f"whose input was local://{shards} and not local://")):
        plan(tmp_path / "moved")


def test_outputs_of_a_shard_that_was_removed_are_refused(plan, score, shards, output):
    score(plan())
    (shards / "b.npy").unlink()
    with pytest.raises(
        FileWriteError, match=re.escape(f"{output}/b.npy.parquet answers a shard that {shards} does not")
    ):
        plan()


@pytest.mark.parametrize("data", [b"", b"PAR1", "parquet", "json"])
def test_files_that_are_not_ours_are_refused(plan, output, data):
    output.mkdir()
    if isinstance(data, bytes):
        (output / "b.npy.parquet").write_bytes(data)
    else:
        metadata = {"mnist_score": '{"schema": 1}'} if data == "json" else None
        pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), output / "b.npy.parquet")
    with pytest.raises(FileWriteError, match=re.escape("b.npy.parquet cannot be read as answers of mnist-score (")):
        plan()


def test_one_file_is_an_input_of_one_shard(plan, shards):
    assert names(plan(shards / "2025" / "a.parquet").missing) == ["a.parquet"]


def test_a_uri_is_an_input_and_an_output(plan, score, shards, output):
    planned = plan(f"file://{shards}", f"file://{output}")
    score(planned)
    assert len(list(output.rglob("*.parquet"))) == 3
    assert plan().missing == []  # because it is the same place


def test_hidden_files_and_those_of_other_kinds_are_no_shards(plan, shards):
    for name in ("_manifest.json", "_temporary/x.parquet", ".x.npy", "x.csv"):
        (shards / name).parent.mkdir(exist_ok=True)
        (shards / name).write_text("x")
    assert len(plan().missing) == 3


def test_an_input_without_shards_is_refused(plan, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileMissingError, match=r"empty holds no \.parquet and no \.npy; give a"):
        plan(tmp_path / "empty")
    with pytest.raises(FileMissingError, match="nowhere does not exist; give a"):
        plan(tmp_path / "nowhere")


def test_a_pipe_is_refused(plan, shards):
    os.mkfifo(shards / "pipe.npy")
    for given in (shards, shards / "pipe.npy"):
        with pytest.raises(FileReadError, match=r"pipe\.npy is a pipe or a device; give a \.parquet"):
            plan(given)


def test_a_uri_of_no_known_kind_is_refused(plan):
    with pytest.raises(FileReadError, match=r"carrier-pigeon://loft cannot be reached \(.*\); give a path, or a URI"):
        plan("carrier-pigeon://loft")


def test_an_output_that_is_a_file_is_refused(plan, output):
    output.write_text("x")
    with pytest.raises(FileReadError, match=re.escape(f"{output} cannot be listed (")):
        plan()


@pytest.mark.parametrize(
    "act", [Place.create, lambda place: place.writing("a").__enter__(), lambda place: place.remove("a")]
)
def test_write_errors_are_one_sentence(tmp_path, act):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileWriteError, match=re.escape(f"cannot write {tmp_path}/file/out")):
        act(Place.at(str(tmp_path / "file" / "out")))


def test_a_manifest_that_cannot_be_written_is_named_once(output):
    (output / "_manifest.json").mkdir(parents=True)
    with pytest.raises(FileWriteError) as refusal, Place.at(str(output)).writing("_manifest.json"):
        pass
    assert str(refusal.value).count("cannot write") == 1


def test_links_are_followed_and_broken_ones_skipped(plan, shards, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (shards / "b.npy").rename(tmp_path / "elsewhere" / "b.npy")
    (shards / "more").symlink_to(tmp_path / "elsewhere")
    (shards / "c.npy").symlink_to("moved away.npy")
    assert names(plan().missing) == ["2025/a.parquet", "2026/a.parquet", "more/b.npy"]


@pytest.mark.parametrize("target", ["..", "../2025/a.parquet"], ids=["a folder above", "a file"])
def test_a_shard_that_is_found_twice_is_refused(plan, shards, target):
    (shards / "2026" / "z.parquet").symlink_to(target)
    with pytest.raises(OptionError, match=r"is a link to the shard 202.*, or lies below a link; remove the link"):
        plan()


def test_a_name_that_is_not_utf_8_is_refused(plan, shards):
    (shards / "b.npy").rename(os.fsdecode(os.fsencode(shards) + b"/\xff.npy"))
    with pytest.raises(FileReadError, match=re.escape(f"{shards} holds ") + r".*\\xff\.npy', whose name is not UTF-8"):
        plan()


def test_no_manifest_is_written_over_answers_of_another_run(plan, score, plain, output):
    other = plan(probabilities=True)  # both have found the folder empty
    score(plan())
    last = plan()
    score(other)
    with pytest.raises(FileWriteError, match="is from another run, whose output was probabilities and not labels"):
        run.run(last, plain, None, None)
    assert not (output / "_manifest.json").exists()


def test_a_link_to_itself_cannot_be_reached(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileReadError, match="loop cannot be reached"):
        Place.at(str(tmp_path / "loop"))


def test_overlapping_input_and_output_are_refused(plan, shards):
    shards.with_name("link").symlink_to(shards)
    roundabout = shards / ".." / shards.name / "out"
    for place in (shards, shards / "out", shards.parent, roundabout, shards.with_name("link") / "out"):
        with pytest.raises(OptionError, match="overlap; keep them apart"):
            plan(output=place)


def test_two_shards_of_one_output_are_refused(plan, shards, real, write_shard):
    write_shard(shards / "b.npy.parquet", real[:3])
    with pytest.raises(OptionError, match=re.escape(f"two shards of {shards} would write b.npy.parquet; rename one")):
        plan()


def test_an_output_that_would_be_a_folder_too_is_refused(plan, shards, real):
    (shards / "b.npy.parquet").mkdir()
    np.save(shards / "b.npy.parquet" / "c.npy", real[:3])
    with pytest.raises(OptionError, match=re.escape(f"two shards of {shards} would write b.npy.parquet; rename one")):
        plan()


def test_a_shard_may_have_the_longest_of_names(plan, score, shards, real):
    np.save(shards / f"{'n' * 240}.npy", real[:3])
    score(plan())
    assert plan().missing == []


def test_places_beyond_the_local_disk_are_written_whole_too(plain, real, shards, tmp_path):
    """Arrow's in-memory filesystem stands in for object stores, because it is written through PyArrow alone."""
    place = Place.at("mock:///out")
    folder, found = list_shards(Place.at(str(shards)))
    scorer = Scorer(plain, Job.of(folder.name, plain, UPRIGHT, probabilities=False), folder, place, 2**30)
    for shard in found:
        assert list(scorer.score(shard))[-1].done
    assert sorted(place.files()) == ["2025/a.parquet", "2026/a.parquet", "b.npy.parquet"]
    with pytest.raises(ZeroDivisionError), place.writing("c.parquet"):
        raise ZeroDivisionError
    assert len(place.files()) == 3
    place.remove("b.npy.parquet")
    assert len(place.files()) == 2


def test_progress_counts_a_shard_once_even_if_it_is_tried_again(capsys):
    with run._Progress([Shard("a.npy", 800, 0), Shard("b.npy", 200, 0)]) as progress:
        for rows in (0, 1000, 0, 1000):  # its scorer dies, and another one begins again
            progress.add(Report("a.npy", rows=rows, count=2000))
        assert (progress.n, progress.digits) == (400, 1000)
        assert re.search(r" 40%\|.*1,000 digits, 0 of 2 shards", str(progress))
        progress.add(Report("a.npy", rows=2000, count=2000, done=True))
        progress.add(Report("b.npy", error="b.npy cannot be scored"))
        assert (progress.n, progress.digits) == (1000, 2000)
        assert "2,000 digits, 2 of 2 shards" in str(progress)
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1] == "Error: b.npy cannot be scored"
    assert "\r" not in stderr  # because this is no terminal


@pytest.mark.parametrize(("count", "last"), [(1, "9 has"), (11, "1 more shard has"), (12, "2 more shards have")])
def test_ten_shards_without_answers_are_named_and_the_others_counted(capsys, count, last):
    run._report_unanswered([str(number) for number in range(9, 9 + count)], "")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == min(count, 11)
    assert lines[-1].startswith(f"Error: {last} no answers")
