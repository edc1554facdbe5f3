"""mnist-parity as people run it: real processes, real files."""

import os

import numpy as np


def test_parity_of_the_bundled_model_holds_here(run, tmp_path):
    result = run("mnist-parity", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.decode().splitlines()[-1] == "Parity holds: this machine computes what was trained."
    assert b"seal intact" in result.stdout


def test_a_bundled_model_is_proven_by_its_name(run, tmp_path):
    result = run("mnist-parity", "linear", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.count(b"seal intact") == 2
    exact = run("mnist-parity", "cnn", cwd=tmp_path)
    assert b"mnist-cnn.exact.onnx: equal, bit for bit" in exact.stdout
    assert b"seal intact" in exact.stdout


def test_a_damaged_model_fails_parity(run, exported, tmp_path):
    damaged = bytearray((exported / "mnist.onnx").read_bytes())
    damaged[10_000] ^= 0x40
    (tmp_path / "damaged.onnx").write_bytes(damaged)
    result = run("mnist-parity", "damaged.onnx", cwd=tmp_path)
    assert result.returncode == 1
    assert b"seal does not match" in result.stderr


def test_a_resealed_model_with_other_weights_fails_parity_by_the_numbers(run, exported, tmp_path):
    import onnx

    from mnist_runtime.model.seal import seal

    proto = onnx.load(exported / "mnist.onnx")
    bias = next(tensor for tensor in proto.graph.initializer if list(tensor.dims) == [10])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.001), bias.name))
    next(prop for prop in proto.metadata_props if prop.key == "mnist_edge.sha256").value = "0" * 64
    (tmp_path / "other.onnx").write_bytes(seal(proto.SerializeToString(deterministic=True)))
    result = run("mnist-parity", "other.onnx", cwd=tmp_path)
    assert result.returncode == 1
    assert "FAIL" in result.stdout.decode()
    assert "other.onnx is not at parity: the logit of class" in result.stderr.decode()


def test_an_impossible_name_is_refused_in_one_sentence(run, tmp_path):
    result = run("mnist-parity", "x" * 300, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(b"Error: " + b"x" * 300 + b" cannot be read (File name too long); ")


def test_a_pipe_is_refused_and_not_waited_for(run, tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "manifest.json")
    for path in (tmp_path / "model.onnx", tmp_path / "folder"):
        result = run("mnist-parity", path, timeout=60)
        assert result.returncode == 1
        assert b"is a pipe or a device, not a file" in result.stderr
