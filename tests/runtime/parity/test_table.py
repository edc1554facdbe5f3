"""The report of a comparison, as people read it."""

import numpy as np

from mnist_runtime.model.comparison import Reference, compare
from mnist_runtime.parity.table import table


def test_the_table_fits_80_columns_and_shows_the_verdict():
    zeros = np.zeros((1000, 10))
    reference = Reference(np.zeros((1000, 784), np.uint8), zeros, zeros + 1e-6, np.zeros(1000, np.bool_))
    good = compare("validation digits", reference, zeros.astype(np.float32))
    bad = compare("single pixels", reference, zeros.astype(np.float32) + 1)
    lines = table([good, bad]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("ok ")
    assert lines[2].startswith("FAIL ")
