"""Costs and benefits of Ray: mnist-score beside the plain runtime on 9.8 million digits.

Exits with 1 if a bound is missed. Every figure is a median of alternating repeats in one run of this file, without
start-up. It runs on Linux only, because it reads memory from /proc. `python benchmarks/scale.py` takes about ten
minutes and 4 GB of temporary disk.
"""

import itertools
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _claim import Claim, report

from mnist_runtime import Classifier
from mnist_train.data.bundled import load_split

REPEATS = 5
TINY = 1_000  # shards of ten digits
SHARDS, SHIFTS = 35, 4  # 35 shards of 4 times the 70,000 real digits: 9,800,000
BIN = Path(sys.executable).parent

PLAIN = """
import sys, time
from pathlib import Path
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mnist_runtime import Classifier
folder, output = map(Path, sys.argv[1:])
output.mkdir()
classifier = Classifier("linear")
classifier.predict(np.zeros((1, 784), np.uint8))
begun = time.perf_counter()
for path in sorted(folder.iterdir()):
    source = pq.ParquetFile(path)
    schema = pa.schema([("number", pa.int64()), ("label", pa.uint8()), ("probability", pa.float32())])
    with pq.ParquetWriter(output / path.name, schema, compression="zstd") as writer:
        for batch in source.iter_batches(65536, use_threads=False):
            pixels = np.frombuffer(batch["pixels"].buffers()[1], np.uint8).reshape(-1, 784)
            pixels = pixels[batch["pixels"].offset :][: len(batch)]
            computed = classifier.compute(pixels)
            columns = [batch["number"], computed.labels.astype(np.uint8), computed.probabilities.max(axis=1)]
            writer.write_batch(pa.record_batch([pa.array(column) for column in columns], schema=schema))
print(time.perf_counter() - begun)
"""
"""The loop that one would write without Ray: the same Parquet in and out, one process, one thread."""


def make_digits(folder: Path, shards: int, shifts: int) -> Path:
    """Write Parquet shards, each of the 70,000 real digits moved by so many shifts, no shift twice.

    They are compressed with zstd at pyarrow's default level, to about a fifth; a row group is 70,000 rows.
    """
    folder.mkdir()
    real = np.concatenate([load_split(name).images for name in ("train", "valid", "test")])
    schema = pa.schema([("number", pa.int64()), ("pixels", pa.binary(784))])
    moves = itertools.product(range(-6, 7), repeat=2)
    first = 0
    for i in range(shards):
        path = folder / f"part-{i:02}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
            for move in itertools.islice(moves, shifts):
                digits = np.roll(real, move, axis=(1, 2))
                buffers = [None, pa.py_buffer(digits)]
                pixels = pa.FixedSizeBinaryArray.from_buffers(pa.binary(784), len(digits), buffers)
                writer.write_table(pa.table([pa.array(range(first, first + len(digits))), pixels], schema))
                first += len(digits)
    return folder


def score(folder: Path, output: Path, actors: int) -> float:
    """Return the seconds of scoring that mnist-score prints, without Ray's start."""
    command = [BIN / "mnist-score", folder, output, "--model", "linear", "--actors", str(actors)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return float(re.search(r"digits in ([\d.,]+) s", said)[1].replace(",", ""))


def plain(folder: Path, output: Path) -> float:
    """Return the seconds of the plain runtime's loop, without its imports."""
    return float(subprocess.check_output([sys.executable, "-c", PLAIN, folder, output]))


def classify() -> float:
    """Return the seconds per digit of the classifier alone, label and probability, on digits in memory."""
    digits = np.tile(load_split("test").images.reshape(-1, 784), (10, 1))
    classifier = Classifier("linear")
    begun = time.perf_counter()
    classifier.compute(digits).labels  # noqa: B018  # computes
    return (time.perf_counter() - begun) / len(digits)


def read(folder: Path) -> float:
    """Return the seconds per digit of reading and decompressing Parquet alone."""
    rows = 0
    begun = time.perf_counter()
    for path in sorted(folder.iterdir())[:4]:
        for batch in pq.ParquetFile(path).iter_batches(65536, use_threads=False):
            rows += len(batch)
    return (time.perf_counter() - begun) / rows


def one_shard(folder: Path, output: Path) -> float:
    """Return the seconds per shard of ten digits, with one actor."""
    folder.mkdir()
    digits = load_split("test").images[:10]
    for i in range(TINY):
        np.save(folder / f"{i:04}.npy", digits)
    return score(folder, output, 1) / TINY


def same_answers(one: Path, other: Path, columns: list[str] | None = None) -> None:
    for path in sorted(one.glob("*.parquet")):
        ours, theirs = (pq.ParquetFile(file).read(columns) for file in (path, other / path.name))
        if ours.columns != theirs.columns:
            sys.exit(f"{path} and {other / path.name} differ")


def peaks(folder: Path, output: Path) -> tuple[int, int]:
    """Return the peak memory, in bytes, of mnist-score with one actor: of its own process and of its scorer's."""
    process = subprocess.Popen(
        [BIN / "mnist-score", folder, output, "--model", "linear", "--actors", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    driver = scorer = 0
    while process.poll() is None:
        driver = max(driver, peak_of(process.pid))
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if command.read_bytes().startswith(b"ray::MapWorker(MapBatches(Scorer))"):
                    scorer = max(scorer, peak_of(int(command.parent.name)))
            except OSError:  # it has ended
                continue
        time.sleep(0.05)
    if process.returncode:
        sys.exit("mnist-score failed")
    return driver, scorer


def peak_of(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has ended
        return 0
    return int(found[1]) * 1024 if found else 0


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        outputs = (work / f"out{i}" for i in itertools.count())
        folder = make_digits(work / "in", SHARDS, SHIFTS)
        rows = SHARDS * SHIFTS * 70_000
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(
            f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, pyarrow {pa.__version__}"
        )
        print(f"{rows:,} digits in {SHARDS} Parquet shards, zstd, {size / rows:.0f} bytes per digit")
        samples: dict[str, list[float]] = {name: [] for name in ("1 actor", "2 actors", "plain", "read", "classify")}
        for _ in range(REPEATS):
            one, two, ours = next(outputs), next(outputs), next(outputs)
            samples["1 actor"].append(score(folder, one, 1) / rows)
            samples["2 actors"].append(score(folder, two, 2) / rows)
            samples["plain"].append(plain(folder, ours) / rows)
            samples["read"].append(read(folder))
            samples["classify"].append(classify())
            same_answers(one, two)
            same_answers(ours, two, ["number", "label"])  # without probabilities, whose last bits depend on batches
        cost = {name: statistics.median(values) for name, values in samples.items()}
        print("\nmedians                                    us per digit  digits per second")
        for name, what in {
            "1 actor": "mnist-score, 1 actor",
            "2 actors": "mnist-score, 2 actors",
            "plain": "plain runtime, Parquet in and out",
            "read": "  of which reading the Parquet",
            "classify": "  and Classifier, in memory",
        }.items():
            print(f"  {what:40}{cost[name] * 1e6:10.2f}{1 / cost[name]:19,.0f}")
        print(f"\na shard of ten digits: {one_shard(work / 'tiny', next(outputs)) * 1e3:.0f} ms")
        small = peaks(make_digits(work / "small", 1, 1), next(outputs))
        large = peaks(make_digits(work / "large", 1, 72), next(outputs))
        print("\npeak memory, MiB               70,000 digits    5,040,000 digits in one shard")
        for name, less, more in zip(("the command", "its scorer"), small, large, strict=True):
            print(f"  {name:28}{less / 2**20:14.0f}{more / 2**20:20.0f}")
    claims = [
        per_digit("speed of two actors / one", cost["1 actor"], cost["2 actors"], 1.7, at_least=True),
        per_digit("one actor / plain runtime", cost["1 actor"], cost["plain"], 1.2),
        *(
            Claim(f"{whose}, more for 72 x digits / 64 MiB", f"{more:.0f} MiB", "64 MiB", more / 64, 1)
            for whose, more in (
                ("command", (large[0] - small[0]) / 2**20),
                ("scorer", (large[1] - small[1]) / 2**20),
            )
        ),
    ]
    return report(claims)


def per_digit(what: str, ours: float, theirs: float, bound: float, *, at_least: bool = False) -> Claim:
    return Claim(what, f"{ours * 1e6:.2f} us", f"{theirs * 1e6:.2f} us", ours / theirs, bound, at_least)


if __name__ == "__main__":
    sys.exit(main())
