"""A mnist.mjs, or the one inside a mnist.html, run by this machine's node as a program that computes logits."""

import shutil

from mnist_runtime.errors import ArtifactError, OptionError
from mnist_runtime.model.program import Program, folder_for, run
from mnist_runtime.page import module_of

_PROGRAM = """\
import { readFileSync } from "node:fs";
import { about, logits, predict, selftest } from "./mnist.mjs";

if (process.argv.length > 2) {
  const { digit, layer } = selftest();
  const threshold = about.outputs > 10 ? Math.floor(Math.log(about.odds) / 2 ** about.exponent) : 0;
  console.log(about.outputs, about.exponent, 100 * digit + layer, threshold);
} else {
  const digits = readFileSync(0);
  const answers = Buffer.alloc((digits.length / 784) * (about.outputs + 1) * 4);
  for (let start = 0, place = 0; start < digits.length; start += 784) {
    const pixels = digits.subarray(start, start + 784);
    for (const logit of logits(pixels)) place = answers.writeInt32LE(logit, place);
    const { label, verdict } = predict(pixels);
    place = answers.writeInt32LE(verdict === "no digit" ? -1 : label, place);
  }
  process.stdout.write(answers);
}
"""


class JavaScript(Program):
    """A module that node runs; it gets the rights of this process."""

    def __init__(self, source: bytes, name: str) -> None:
        """Put `source` into a temporary folder that lives as long as this object, and run it there.

        Raises:
            OptionError: there is no node.
            ArtifactError: it does not run, or is no module of ours.
        """
        node = shutil.which("node")
        if not node:
            raise OptionError(f"{name} is JavaScript, and this machine has no node; install Node.js")
        folder = folder_for(self)
        (folder / "mnist.mjs").write_bytes(source)
        (folder / "main.mjs").write_text(_PROGRAM)
        version = run(name, [node, "--version"], "run").decode().strip()
        super().__init__(name, [node, str(folder / "main.mjs")], f"run by node {version}")


class OfflinePage(JavaScript):
    """The module inside a mnist.html."""

    def __init__(self, source: bytes, name: str) -> None:
        """Take the module out of the page `source`, and run it as `JavaScript` does.

        Raises:
            OptionError: there is no node.
            ArtifactError: the page is not whole, or its module does not run.
        """
        module = module_of(source)
        if not module:
            raise ArtifactError(f"{name} is not a whole page of mnist-export; copy or export it again")
        super().__init__(module, name)
