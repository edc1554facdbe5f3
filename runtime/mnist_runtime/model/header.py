"""A mnist.h of `mnist-export`, compiled by this machine's C compiler into a program that computes logits."""

import contextlib
import os
import shlex
import shutil

from mnist_runtime.errors import OptionError
from mnist_runtime.model.program import Program, folder_for, run

PROGRAM = r"""
#include <stdio.h>
#include "mnist.h"

#ifndef MNIST_NO_DIGIT  /* the network takes every picture for a digit */
#define MNIST_NO_DIGIT 0
#endif

static void write_int32(int32_t value)
{
    for (int i = 0; i < 4; i++)
        putchar((int)((uint32_t)value >> 8 * i & 255));
}

/* With an argument, describe the network; otherwise turn digits on stdin into logits and labels, little-endian. */
int main(int argc, char **argv)
{
    static uint8_t pixels[784];
    int32_t logits[MNIST_OUTPUTS];
    (void)argv;
    if (argc > 1)
        return printf("%d %d %d %ld\n", MNIST_OUTPUTS, MNIST_EXPONENT, mnist_selftest(), (long)MNIST_NO_DIGIT) < 0;
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        mnist_logits(pixels, logits);
        for (int i = 0; i < MNIST_OUTPUTS; i++)
            write_int32(logits[i]);
        write_int32(mnist_predict(pixels));
    }
    return 0;
}
"""
"""C source of the program; tests compile the same one for other processors."""

_FLAGS = ["-std=c99", "-O2"]


class Header(Program):
    """A compiled header."""

    def __init__(self, source: bytes, name: str) -> None:
        """Compile `source` with `$CC`, or `cc`, into a temporary folder that lives as long as this object.

        Raises:
            OptionError: there is no such compiler.
            ArtifactError: it does not compile, or is no header of ours.
        """
        compiler = _find_compiler(name)
        folder = folder_for(self)
        (folder / "mnist.h").write_bytes(source)
        (folder / "main.c").write_text(PROGRAM)
        run(name, [*compiler, *_FLAGS, str(folder / "main.c"), "-o", str(folder / "main")], "compile")
        super().__init__(name, [str(folder / "main")], f"compiled by {shlex.join(compiler)}")


def _find_compiler(name: str) -> list[str]:
    """Return the command of `$CC`, or `cc`.

    Raises:
        OptionError: there is no such compiler.
    """
    wanted = os.environ.get("CC", "").strip() or "cc"
    with contextlib.suppress(ValueError):  # an open quote
        command = shlex.split(wanted)
        if shutil.which(command[0]):
            return command
    raise OptionError(
        f"{name} is C, and this machine has no compiler {wanted!r}; install one, or name yours in the environment "
        "variable CC"
    )
