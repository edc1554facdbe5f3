"""mnist-parity on exact networks: equality, and one line for two machines to compare."""

import json
import re
import shutil

import numpy as np
import pytest

from mnist_runtime.model.manifest import read_manifest

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="there is no node")
IN_NODE = ["mnist.mjs", "mnist.html"]
FILES = ["mnist.exact.onnx", "mnist.h", *(pytest.param(file, marks=needs_node) for file in IN_NODE)]


@pytest.mark.parametrize("file", FILES)
def test_parity_of_an_exact_network_is_equality(run, everything, file):
    result = run("mnist-parity", everything / file)
    assert result.returncode == 0, result.stderr
    assert f"ok    {file}: ".encode() in result.stdout
    assert b"equal, bit for bit" in result.stdout


@pytest.mark.parametrize("file", FILES)
def test_two_machines_compare_the_digest_that_the_manifest_holds(run, everything, tmp_path, validation, file):
    np.save(tmp_path / "digits.npy", validation.images)
    result = run("mnist-parity", everything / file, "--digits", tmp_path / "digits.npy")
    digest = re.search(rb"^logits  ([0-9a-f]{64})$", result.stdout, re.MULTILINE)[1].decode()
    assert digest == read_manifest(everything).document["files"][file]["logits_sha256"]


def test_json_holds_the_proof_and_the_digest(run, everything, tmp_path, validation):
    np.save(tmp_path / "digits.npy", validation.images[:3])
    arguments = (everything / "mnist.h", "--digits", tmp_path / "digits.npy", "--format", "json")
    (finding,) = json.loads(run("mnist-parity", *arguments).stdout)
    assert (finding["passed"], len(finding["logits_sha256"])) == (True, 64)
    assert finding["proof"].endswith("equal, bit for bit")


def test_the_header_of_a_folder_is_compiled_where_there_is_a_compiler(run, everything):
    assert b"mnist.h: compiled by " in run("mnist-parity", everything).stdout
    without = run("mnist-parity", everything, env={"CC": "no-such-compiler"})
    assert (without.returncode, b"mnist.h: as published" in without.stdout) == (0, True)


@needs_node
def test_the_module_of_a_folder_is_run_where_there_is_node(run, everything, tmp_path):
    whole = run("mnist-parity", everything).stdout
    without = run("mnist-parity", everything, env={"PATH": str(tmp_path)})
    assert without.returncode == 0
    for file in IN_NODE:
        assert f"{file}: run by node v".encode() in whole
        assert f"{file}: as published".encode() in without.stdout


@needs_node
def test_files_that_nothing_can_run_are_compared_with_their_digests(run, everything, tmp_path):
    folder = shutil.copytree(everything, tmp_path / "folder")
    damaged = ["mnist.h", "mnist.html", "mnist.mjs", "mnist.webmanifest", "mnist.worker.js"]
    for name in damaged:
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    result = run("mnist-parity", folder, "--format", "json", env={"PATH": "", "CC": "no-such-compiler"})
    assert result.returncode == 1
    found = {each["file"]: each["failed_check"] for each in json.loads(result.stdout)}
    assert [name for name in found if found[name]] == damaged
    assert {found[name] for name in damaged} == {"integrity"}


@needs_node
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"this is no module", b"does not run here (SyntaxError"),
        (b"export const about = {};", b"does not run here (SyntaxError"),
    ],
)
def test_a_foreign_module_is_refused_in_one_sentence(run, tmp_path, source, sentence):
    (tmp_path / "mnist.mjs").write_bytes(source)
    result = run("mnist-parity", tmp_path / "mnist.mjs")
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert sentence in result.stderr


@needs_node
@pytest.mark.parametrize("length", [1, 30_000, -2])
def test_a_truncated_page_is_refused_in_one_sentence(run, everything, tmp_path, length):
    (tmp_path / "mnist.html").write_bytes((everything / "mnist.html").read_bytes()[:length])
    result = run("mnist-parity", tmp_path / "mnist.html")
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"mnist.html is not a whole page of mnist-export; copy or export it again" in result.stderr


@needs_node
def test_a_damaged_module_is_found_and_the_layer_named(run, everything, tmp_path):
    source = (everything / "mnist.mjs").read_bytes()
    damage = re.sub(rb'(?<="bias": ")(.)', lambda first: b"B" if first[0] == b"A" else b"A", source, count=1)
    (tmp_path / "mnist.mjs").write_bytes(damage)
    result = run("mnist-parity", tmp_path / "mnist.mjs")
    assert result.returncode == 1
    assert b"its self-test says that layer 1 is damaged" in result.stderr


def test_a_missing_node_is_reported_in_one_sentence(run, tmp_path):
    (tmp_path / "mnist.mjs").write_text("//")
    result = run("mnist-parity", tmp_path / "mnist.mjs", env={"PATH": str(tmp_path)})
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"mnist.mjs is JavaScript, and this machine has no node; install Node.js" in result.stderr


def test_a_damaged_header_is_found_and_the_layer_named(run, everything, tmp_path):
    source = (everything / "mnist.h").read_bytes()
    (tmp_path / "mnist.h").write_bytes(source.replace(b"mnist_bias1[10] = {\n    ", b"mnist_bias1[10] = {\n    1"))
    result = run("mnist-parity", tmp_path / "mnist.h")
    assert result.returncode == 1
    assert b"its self-test says that layer 1 is damaged" in result.stderr


def test_a_missing_compiler_and_a_broken_header_are_reported_in_one_sentence(run, everything, tmp_path):
    result = run("mnist-parity", everything / "mnist.h", env={"CC": "no-such-compiler"})
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"has no compiler 'no-such-compiler'; install one" in result.stderr
    (tmp_path / "mnist.h").write_bytes(b"#error no\n")
    assert b"does not compile here" in run("mnist-parity", tmp_path / "mnist.h").stderr
    np.save(tmp_path / "digits.npy", np.zeros((1, 784), np.uint8))
    assert run("mnist-parity", everything, "--digits", tmp_path / "digits.npy").returncode == 2
