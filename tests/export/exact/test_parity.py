"""mnist-parity on exact networks: equality, and one line for two machines to compare."""

import json
import re

import numpy as np
import pytest

from mnist_runtime.model.manifest import read_manifest

FILES = ["mnist.exact.onnx", "mnist.h"]


@pytest.mark.parametrize("file", FILES)
def test_it_demands_equality_and_says_so(run, everything, file):
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


def test_a_folder_s_header_is_compiled_where_there_is_a_compiler(run, everything):
    assert b"mnist.h: compiled by " in run("mnist-parity", everything).stdout
    without = run("mnist-parity", everything, env={"CC": "no-such-compiler"})
    assert (without.returncode, b"mnist.h: as published" in without.stdout) == (0, True)


def test_a_damaged_header_is_found_and_the_layer_named(run, everything, tmp_path):
    source = (everything / "mnist.h").read_bytes()
    (tmp_path / "mnist.h").write_bytes(source.replace(b"mnist_bias1[10] = {\n    ", b"mnist_bias1[10] = {\n    1"))
    result = run("mnist-parity", tmp_path / "mnist.h")
    assert result.returncode == 1
    assert b"mnist_selftest() returns 1" in result.stderr


def test_what_cannot_be_done_is_one_sentence(run, everything, tmp_path):
    result = run("mnist-parity", everything / "mnist.h", env={"CC": "no-such-compiler"})
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"has no compiler 'no-such-compiler'; install one" in result.stderr
    (tmp_path / "mnist.h").write_bytes(b"#error no\n")
    assert b"does not compile here" in run("mnist-parity", tmp_path / "mnist.h").stderr
    np.save(tmp_path / "digits.npy", np.zeros((1, 784), np.uint8))
    assert run("mnist-parity", everything, "--digits", tmp_path / "digits.npy").returncode == 2
