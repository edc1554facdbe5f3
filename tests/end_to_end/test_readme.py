"""What the READMEs show works."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("readme", ["README.md", "runtime/README.md"])
def test_the_python_in_the_readme_runs(readme, tmp_path, monkeypatch, test_split):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    np.save("digit.npy", test_split.images[0])
    exec(compile(block, readme, "exec"), {})
