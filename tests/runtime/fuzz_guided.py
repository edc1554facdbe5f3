"""The readers of `fuzz.py` under atheris, libFuzzer for Python, which damages further what has reached new code.

`python tests/runtime/fuzz_guided.py 20000` (`make fuzz`) tries that many inputs, where atheris is installed. What it
has kept is in `artifacts/fuzz/corpus`, and the next run goes on from there.
"""

import sys
from pathlib import Path

FOLDER = Path("artifacts/fuzz")

KINDS = ("digits.bin", "packed.golden", "model.onnx")
"""What an input is taken for, by its first byte; files of digits are told by what is in them."""


def kind_of(name: str) -> int:
    return next((index for index, kind in enumerate(KINDS) if kind.endswith(Path(name).suffix)), 0)


def main(count: int) -> None:
    try:
        import atheris
    except ImportError:
        print("No coverage-guided fuzzing: atheris is not installed; .venv/bin/python -m pip install atheris")
        return
    with atheris.instrument_imports(include=["mnist_runtime", "zipfile"]):
        from fuzz import MEMORY, SECONDS, originals, read

    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in originals():
        (corpus / name).write_bytes(bytes([kind_of(name)]) + data)

    def one(data: bytes) -> None:
        if data:
            read(KINDS[data[0] % len(KINDS)], data[1:], FOLDER)

    bounds = [
        f"-runs={count}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={MEMORY >> 20}",
        f"-malloc_limit_mb={MEMORY >> 20}",
    ]
    report = [f"-artifact_prefix={FOLDER}/", "-verbosity=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *bounds, *report, "-max_len=65536", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]))
