"""One mnist.h that `mnist-export` wrote, compiled by this machine's C compiler into a program that answers digits."""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import Intensities
from mnist_runtime.errors import ArtifactError, OptionError

PROGRAM = r"""
#include <stdio.h>
#include "mnist.h"

/* With an argument, tell about the network; otherwise turn digits on stdin into logits, int32 little-endian. */
int main(int argc, char **argv)
{
    static uint8_t pixels[784];
    int32_t logits[MNIST_OUTPUTS];
    (void)argv;
    if (argc > 1)
        return printf("%d %d %d\n", MNIST_OUTPUTS, MNIST_EXPONENT, mnist_selftest()) < 0;
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        mnist_logits(pixels, logits);
        for (int i = 0; i < 4 * MNIST_OUTPUTS; i++)
            putchar((int)((uint32_t)logits[i / 4] >> 8 * (i % 4) & 255));
    }
    return 0;
}
"""
"""C source of the program; tests compile the same one for other processors."""

_FLAGS = ["-std=c99", "-O2"]
_TIMEOUT = 300  # seconds to compile or to run: a hundred times what either takes


class Header:
    """A compiled header: call `logits` on digits, `selftest` for its own verdict."""

    def __init__(self, source: bytes, name: str) -> None:
        """Compile `source` with `$CC`, or `cc`, into a temporary folder that lives as long as this object.

        Raises:
            OptionError: there is no such compiler.
            ArtifactError: it does not compile, or is no header of ours.
        """
        compiler = find_compiler()
        if not compiler:
            wanted = os.environ.get("CC") or "cc"
            raise OptionError(
                f"{name} is C, and this machine has no compiler {wanted!r}; install one, or name yours in the "
                "environment variable CC"
            )
        self._name = name
        folder = Path(tempfile.mkdtemp(prefix="mnist-header-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        (folder / "mnist.h").write_bytes(source)
        (folder / "main.c").write_text(PROGRAM)
        self._program = folder / "main"
        self._run([*compiler, *_FLAGS, str(folder / "main.c"), "-o", str(self._program)], "compile")
        self.compiler = shlex.join(compiler)
        """Command that compiled the header."""
        self.outputs, self.exponent, self._selftest = map(int, self._run([str(self._program), "about"], "run").split())

    def logits(self, digits: Intensities) -> NDArray[np.int32]:
        """Compute the integer logits, int32 `[N, outputs]`, of digits uint8 `[N, 784]`.

        Raises:
            ArtifactError: the program fails.
        """
        answers = self._run([str(self._program)], "run", digits.tobytes())
        return np.frombuffer(answers, "<i4").reshape(len(digits), self.outputs).astype(np.int32)

    def selftest(self) -> int:
        """Return what `mnist_selftest()` returned here: 0, or `100 * digit + layer` of the first difference."""
        return self._selftest

    def _run(self, command: list[str], verb: str, data: bytes = b"") -> bytes:
        try:
            done = subprocess.run(command, input=data, capture_output=True, timeout=_TIMEOUT, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ArtifactError(f"{self._name} does not {verb} here ({error}); export it again") from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").splitlines() or [f"exit code {done.returncode}"]
            raise ArtifactError(f"{self._name} does not {verb} here ({lines[0]}); export it again")
        return done.stdout


def find_compiler() -> list[str]:
    """Return the command of `$CC`, or `cc`; empty where there is no such compiler."""
    command = shlex.split(os.environ.get("CC") or "cc")
    return command if shutil.which(command[0]) else []


def logits_sha256(logits: NDArray[Any]) -> str:
    """Return the SHA-256, in hex, of logits as they lie in memory row by row, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(logits, logits.dtype.newbyteorder("<")).tobytes()).hexdigest()
