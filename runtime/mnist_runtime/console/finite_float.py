"""The type of options that take a number: a finite one in a range."""

import math
import reprlib
from typing import Any

import click


class FiniteFloat(click.FloatRange):
    """A finite number in a range; "nan" and "inf" are refused, which `click.FloatRange` lets pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        try:
            number = super().convert(value, param, ctx)
        except OverflowError:  # an integer of a configuration file may be larger than any float
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{reprlib.repr(value)} is not a finite number.", param, ctx)
        return number
