"""Pickles: arrays are read in every protocol, and hostile pickles neither run code nor take memory."""

import builtins
import io
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_train.data.bundled import Split
from mnist_train.data.unpickle import load_arrays
from mnist_train.errors import DataError

PYTHON_2 = (
    b"\x80\x02(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01"
    b"K\x02\x85cnumpy\ndtype\nq\x04U\x02i8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    b"b\x89U\x10\x05\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff\xff\xff\xff\xfftbt."
)
"""(np.array([5, -2]),) as cPickle of Python 2.7 wrote it: the array's bytes are a str."""


class Calls:
    """An object that pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def load(data: bytes):
    return load_arrays(io.BytesIO(data), "digits.pkl.gz")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("change", [np.ascontiguousarray, np.asfortranarray, lambda x: x.astype(">f4"), np.uint8])
def test_real_digits_survive_every_protocol(test_split: Split, protocol: int, change):
    images = change(test_split.images[:5].reshape(5, 784))
    (got, labels), nothing = load(pickle.dumps(((images, test_split.labels), [test_split.labels[:0]]), protocol))
    assert got.dtype == images.dtype
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(labels, test_split.labels)
    assert nothing[0].shape == (0,)


def test_a_pickle_of_python_2_is_read():
    (array,) = load(PYTHON_2)
    assert array.tolist() == [5, -2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (Calls(os.system, "touch ran"), f"{os.name}.system"),
        (Calls(builtins.eval, "open('ran', 'w')"), ".eval"),
        (Calls(builtins.getattr, "text", "format"), ".getattr"),
        (Calls(np.fromfile, "/etc/passwd"), "fromfile"),
        (Calls(np.load, "ran.npy"), "load"),
    ],
    ids=["os.system", "eval", "getattr", "np.fromfile", "np.load"],
)
def test_a_hostile_name_is_refused_and_not_run(hostile, named, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"wants .*--data bundled") as caught:
        load(pickle.dumps((np.zeros(3), hostile), protocol))
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_dotted_name_within_numpy_is_refused(tmp_path, monkeypatch):
    """numpy.ndarray is allowed; its methods, and the modules that NumPy imports, are not."""
    monkeypatch.chdir(tmp_path)
    for module, name in [("numpy", "ndarray.tofile"), ("numpy", "os.system"), ("numpy.f2py", "os.system")]:
        chain = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode()
        with pytest.raises(DataError, match="wants numpy"):
            load(chain + b"\x93\x8c\x03ran\x85R.")
    assert list(tmp_path.iterdir()) == []


def test_an_allowed_function_cannot_be_changed():
    rewritten = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x08\x00\x00\x00__call__K\x01sb."
    with pytest.raises(DataError, match="EMPTY_DICT"):
        load(rewritten)
    with pytest.raises(DataError, match="state is not a dictionary"):
        load(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nK\x01b.")


BOMBS = {
    "ndarray of 10 GB": b"\x80\x02cnumpy\nndarray\nJ\x00\xe4\x0bTJ\x05\x00\x00\x00\x86\x85R.",
    "_reconstruct of 10 GB": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\x00\xe4\x0bTK\x07\x86U\x01b\x87R."
    ),
    "bytes that claim 10 GB": b"\x80\x04\x8e" + (10**10).to_bytes(8, "little") + b"x.",
    "bytearray that claims 10 GB": b"\x80\x05\x96" + (10**10).to_bytes(8, "little") + b"x.",
    "memo of 2 billion": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "8 million tuples": b"\x80\x02(" + b")" * 8_000_000 + b"t.",
    "one text encoded 1,900 times": (
        b"\x80\x02X" + (2**20).to_bytes(4, "little") + b"x" * 2**20 + b"q\x000c_codecs\nencode\nq\x010"
        b"X\x06\x00\x00\x00latin1q\x020(" + b"h\x01h\x00h\x02\x86R" * 1900 + b"t."
    ),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_pickle_that_claims_much_memory_is_refused(bomb: bytes, tmp_path: Path):
    """Read it in a process that may take 1 GiB more, so that an attempt at 10 would be a MemoryError."""
    (tmp_path / "bomb").write_bytes(bomb)
    script = """
        import resource
        from mnist_train.errors import DataError
        from mnist_train.data.unpickle import load_arrays
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
        try:
            load_arrays(open("bomb", "rb"), "bomb")
        except DataError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bomb is not a whole pickle of arrays alone")


def test_keys_nested_deeply_are_refused_before_they_are_hashed():
    """CPython hashes nested tuples by recursion without a limit: 200,000 would overflow the stack."""
    with pytest.raises(DataError, match="more than 10,000 instructions"):
        load(b"\x80\x04)" + b"\x85" * 200_000 + b"}\x8c\x01xs.")
    nested = b"\x80\x04)" + b"\x85" * 9_000
    with pytest.raises(DataError, match="EMPTY_DICT"):
        load(nested + b"}\x8c\x01xs.")
    with pytest.raises(DataError, match="more than arrays"):
        load(b"\x80\x04c_codecs\nencode\n\x8c\x01x" + nested[2:] + b"\x86R.")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array([object()]), "dtype 'O8'"),
        ({"x_train": np.zeros(3)}, "EMPTY_DICT"),
        ((np.zeros(3), "text"), "more than arrays"),
        (np.array(["text"]), "neither digits nor labels"),
        ([np.zeros(1)] * 9, "more than arrays"),
    ],
)
def test_a_pickle_of_other_objects_is_refused(value, reason):
    with pytest.raises(DataError, match=reason):
        load(pickle.dumps(value))


def test_a_truncated_pickle_is_refused(test_split: Split):
    whole = pickle.dumps((test_split.images[:1], test_split.labels[:1]), 2)
    for end in range(0, len(whole) - 1, 7):
        with pytest.raises(DataError):
            load(whole[:end])


def test_a_shape_that_does_not_fit_the_bytes_is_refused():
    with pytest.raises(DataError, match="cannot reshape array of size 2"):
        load(PYTHON_2.replace(b"K\x02\x85c", b"K\x03\x85c"))
