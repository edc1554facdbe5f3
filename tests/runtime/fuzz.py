"""Damaged .npy, .npz, image and ONNX bytes: whatever comes in, only `MnistRuntimeError` comes out.

`python tests/runtime/fuzz.py 20000` tries that many inputs (`make fuzz`): real files with bytes flipped, cut, moved and
repeated; the same seed gives the same inputs. Memory is bounded by the system, time by an alarm.
"""

import io
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_runtime import Classifier, MnistRuntimeError
from mnist_runtime.artifact import BUNDLED
from mnist_runtime.digits import as_digits
from mnist_runtime.sources import chunks

MEMORY = 2**30
"""Bytes of address space above what is taken at the start; a reader that believes a header runs into it."""
SECONDS = 10
"""For one input."""

_NUMBERS = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"999999999999", b"-1", b"'|O'", b"28", b"(", b"}")


def originals() -> list[tuple[str, bytes]]:
    """A real file of every kind that is read."""
    digits = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    picture = Image.fromarray(np.pad(np.full((40, 8), 255, np.uint8), 30))
    found = [
        (f"image.{form}", _saved(lambda file, form=form: picture.save(file, form)))
        for form in ("png", "jpeg", "bmp", "webp")
    ]
    found += [("floats.npy", _saved(lambda file: np.save(file, digits / 256)))]
    found += [("bytes.npy", _saved(lambda file: np.save(file, digits)))]
    found += [("pickle.npy", _saved(lambda file: np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)))]
    found += [("plain.npz", _saved(lambda file: np.savez(file, x=digits, y=digits[:, 0, 0])))]
    found += [("packed.npz", _saved(lambda file: np.savez_compressed(file, x=digits)))]
    return [*found, ("model.onnx", BUNDLED.read_bytes())]


class Trap:
    """Ends the process with 66 when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return (_trapped, (66,))


def _trapped(code: int) -> object:
    raise SystemExit(code)


def inputs(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files, the same for the same seed."""
    chance = random.Random(seed)
    files = originals()
    for index in range(count):
        name, data = files[index % len(files)]
        yield name, _damaged(data, chance)


def read(name: str, data: bytes, folder: Path) -> None:
    """Do with a file what the runtime does."""
    if name.endswith(".onnx"):
        with Classifier(data, trusted_contract="float32") as classifier:
            classifier.predict(np.zeros((2, 784), np.uint8))
        return
    path = folder / name
    path.write_bytes(data)
    for _, _, digits in chunks(str(path)):
        as_digits(digits)


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Read `count` damaged files; count what came out. Any error that is not ours escapes."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in inputs(count, seed):
            signal.alarm(SECONDS)
            try:
                read(name, data, Path(folder))
                outcomes["read"] += 1
            except MnistRuntimeError as error:
                if "\n" in str(error):
                    raise ValueError(f"{name}: more than a line: {error}") from error
                outcomes[type(error).__name__] += 1
            except BaseException:
                Path("fuzz-failure").write_bytes(data)
                print(f"{name} failed; its bytes are in fuzz-failure", file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
    return outcomes


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


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


def _bound_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


if __name__ == "__main__":
    Classifier().close()
    _bound_memory()
    print(dict(fuzz(int(sys.argv[1]))))
