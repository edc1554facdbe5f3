"""Damaged .npy, .npz, image and ONNX files, and golden digits: reading them raises `MnistRuntimeError` or nothing.

`python tests/runtime/fuzz.py 20000` tries that many inputs (`make fuzz`): real files with bytes flipped, cut, moved and
repeated; the same seed gives the same inputs. Memory and the time per input are bounded. `fuzz_guided.py` searches
further with atheris.
"""

import base64
import contextlib
import dataclasses
import faulthandler
import io
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_runtime import Classifier, MnistRuntimeError
from mnist_runtime.bundled import BUNDLED
from mnist_runtime.digits import as_digits
from mnist_runtime.infer.inputs import Reading, chunks
from mnist_runtime.model.artifact import Artifact

MEMORY = 2**30
"""Bytes of address space allowed above those in use at the start; a reader that trusts a header exceeds them."""
SECONDS = 20
"""Seconds allowed per input, also on a slow and busy machine."""

FAILURE = Path("fuzz-failure")
"""File that keeps the first input that failed."""

ARTIFACT = Artifact.load(BUNDLED["linear"][0])

_NUMBERS = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"999999999999", b"-1", b"'|O'", b"28", b"(", b"}")


def originals() -> list[tuple[str, bytes]]:
    """Return name and bytes of a real file of every kind, and of a model's golden digits, decoded from base64."""
    digits = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    picture = Image.fromarray(np.pad(np.full((40, 8), 255, np.uint8), 30))
    found = [
        (f"image.{format_}", _saved(lambda file, format_=format_: picture.save(file, format_)))
        for format_ in ("png", "jpeg", "bmp", "webp")
    ]
    found += [("floats.npy", _saved(lambda file: np.save(file, digits / 256)))]
    found += [("bytes.npy", _saved(lambda file: np.save(file, digits)))]
    found += [("pickle.npy", _saved(lambda file: np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)))]
    found += [("plain.npz", _saved(lambda file: np.savez(file, x=digits, y=digits[:, 0, 0])))]
    found += [("packed.npz", _saved(lambda file: np.savez_compressed(file, x=digits)))]
    found += [("packed.golden", base64.b64decode(ARTIFACT.metadata["golden"]))]
    found += [("plain.golden", _stored(found[-1][1]))]
    model = BUNDLED["linear"][0].read_bytes()
    unsealed = model.replace(b"mnist_edge.sha256", b"somebody's.sha256")  # its damage reaches onnxruntime
    return [*found, ("model.onnx", model), ("unsealed.onnx", unsealed)]


class Trap:
    """An object that ends the process with 66 when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return (_trapped, (66,))


def _trapped(code: int) -> object:
    raise SystemExit(code)


def inputs(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield `count` damaged files, the same for the same seed."""
    chance = random.Random(seed)
    files = originals()
    for index in range(count):
        name, data = files[index % len(files)]
        yield name, _damaged(data, chance)


def read(name: str, data: bytes, folder: Path) -> str:
    """Read an input as the runtime does; return "read", or the name of our error.

    Raises:
        Exception: the error is not ours, or has more than one line, or memory ran out.
    """
    try:
        _read(name, data, folder)
    except MnistRuntimeError as error:
        if ran_out_of_memory(error):
            raise MemoryError(f"{name}: memory was asked for before the input was checked") from error
        if "\n" in str(error):
            raise ValueError(f"{name}: more than a line: {error}") from error
        return type(error).__name__
    return "read"


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Return True if an error, or one that caused it, is a MemoryError: then the reader itself has set no bound."""
    while error and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _read(name: str, data: bytes, folder: Path) -> None:
    if name.endswith(".onnx"):
        with Classifier(data, trusted_contract="float32") as classifier:
            classifier.predict(np.zeros((2, 784), np.uint8))
    elif name.endswith(".golden"):
        dataclasses.replace(ARTIFACT, metadata={"golden": base64.b64encode(data).decode()}).replay()
    else:
        path = folder / name
        path.write_bytes(data)
        for _, _, digits in chunks(str(path), Reading()):
            as_digits(digits)


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Read `count` damaged files and count the outcomes; the first that fails stays in `fuzz-failure`."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in inputs(count, seed):
            FAILURE.write_bytes(data)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            outcomes[read(name, data, Path(folder))] += 1
            faulthandler.cancel_dump_traceback_later()
    FAILURE.unlink()
    return outcomes


@contextlib.contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Limit the address space to `size` bytes above those in use (Linux)."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _stored(packed: bytes) -> bytes:
    """Return the same .npz uncompressed, so that damage reaches the arrays."""
    with np.load(io.BytesIO(packed)) as arrays:
        return _saved(lambda file: np.savez(file, **arrays))


def _damaged(data: bytes, chance: random.Random) -> bytes:
    """Damage 1 to 4 places, mostly near the start, where headers are."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(damaged), chance.choice((32, 160, 2**30))) or 1) if damaged else 0
        match chance.randrange(6):
            case 0:
                damaged[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del damaged[at : at + chance.choice((1, 8, 1000))]
            case 2:
                damaged[at : at + 4] = chance.choice(_NUMBERS)
            case 3:
                damaged[at:at] = damaged[at : at + chance.choice((1, 16, 300))]
            case 4:
                del damaged[len(damaged) - at :]
            case _:
                damaged[at:at] = chance.choice(_NUMBERS)
    return bytes(damaged)


if __name__ == "__main__":
    with bounded_memory(MEMORY):
        print(dict(fuzz(int(sys.argv[1]))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"largest memory of the whole process: {peak >> 10} MiB")
