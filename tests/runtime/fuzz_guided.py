"""The readers of `fuzz.py` under atheris, libFuzzer for Python, which mutates inputs that have reached new code.

`python tests/runtime/fuzz_guided.py 20000` (`make fuzz`) tries that many inputs, if atheris is installed. The next run
continues from the corpus in `artifacts/fuzz/corpus`.
"""

import sys
from pathlib import Path

FOLDER = Path("artifacts/fuzz")

KINDS = ("digits.bin", "packed.golden", "model.onnx")
"""Kinds of input, selected by its first byte; the content of a file of digits shows its format."""


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
