"""A program in another language that computes an exact network: digits go in on stdin, logits come out on stdout."""

import hashlib
import re
import subprocess
import tempfile
import weakref
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import CLASSES, Intensities
from mnist_runtime.errors import ArtifactError

_FOLDER = "mnist-program-"
_ADVICE = "check this machine's compiler or node, or export the file again"
_TIMEOUT = 300  # seconds to compile or to run: a hundred times what either takes


class Program:
    """A running network: call `logits` on digits, `selftest` for its test of itself."""

    def __init__(self, name: str, command: list[str], how: str) -> None:
        """Ask the program about its network.

        Args:
            name: Name of the artifact in errors.
            command: Command of the program. With the argument "about" it prints the number of logits, the exponent, the
                result of the self-test and the threshold of no digit; without, it turns digits on stdin into logits
                and a label, -1 for no digit, int32 little-endian.
            how: Description of what runs the program: "compiled by cc".

        Raises:
            ArtifactError: it does not run.
        """
        self._name = name
        self._command = command
        self.how = how
        """Description of what runs the program: "compiled by cc"."""
        about = run(name, [*command, "about"], "run")
        try:
            self.outputs, self.exponent, self._selftest, self.no_digit = map(int, about.split())
        except ValueError as error:
            raise ArtifactError(f"{name} does not say what it computes ({error}); export it again") from error

    def logits(self, digits: Intensities) -> NDArray[np.int32]:
        """Compute the integer logits, int32 `[N, outputs]`, of digits uint8 `[N, 784]`.

        Raises:
            ArtifactError: the program fails.
        """
        return self.answers(digits)[0]

    def answers(self, digits: Intensities) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Compute the integer logits, int32 `[N, outputs]`, and labels, int32 `[N]`, -1 for no digit.

        Raises:
            ArtifactError: the program fails.
        """
        written = run(self._name, self._command, "run", digits.tobytes())
        answers = np.frombuffer(written, "<i4").reshape(len(digits), self.outputs + 1).astype(np.int32)
        return answers[:, :-1], answers[:, -1]

    def rule(self, logits: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the labels that the program must answer, int64 `[N]`, for logits int32 `[N, outputs]`."""
        digits, others = logits[:, : len(CLASSES)], logits[:, len(CLASSES) :]
        is_none = (others - digits.max(axis=1, keepdims=True) > self.no_digit).any(axis=1)
        return np.where(is_none, -1, digits.argmax(axis=1))

    def selftest(self) -> int:
        """Return the result of the self-test here: 0, or `100 * digit + layer` of the first difference."""
        return self._selftest


def folder_for(owner: object) -> Path:
    """Make a temporary folder that lives as long as `owner`."""
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
    weakref.finalize(owner, rmtree, folder, ignore_errors=True)
    return folder


def run(name: str, command: list[str], verb: str, data: bytes = b"") -> bytes:
    """Run a command that is to `verb` the artifact `name`, and return its stdout.

    Raises:
        ArtifactError: it fails; the error has the first line of its stderr.
    """
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"{name} does not {verb} here ({error}); {_ADVICE}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        reason = next((line for line in lines if "rror" in line), lines[0]) or f"exit code {done.returncode}"
        reason = re.sub(rf"[^\s('\"]*{_FOLDER}\w+[/\\]", "", reason.strip())  # no paths of the temporary folder
        raise ArtifactError(f"{name} does not {verb} here ({reason}); {_ADVICE}")
    return done.stdout


def logits_sha256(logits: NDArray[Any]) -> str:
    """Return the SHA-256, in hex, of the bytes of logits, row by row and little-endian."""
    return hashlib.sha256(np.ascontiguousarray(logits, logits.dtype.newbyteorder("<")).tobytes()).hexdigest()
