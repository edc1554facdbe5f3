"""A claim of speed or size: our figure beside the alternative's, and a bound on their ratio."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Claim:
    """A ratio and its bound."""

    what: str
    ours: str
    theirs: str
    ratio: float
    bound: float
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """True if the bound holds."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "ok" if self.kept else "MISSED"
        return f"{verdict:7}{self.what:44}{self.ours:>11}{self.theirs:>11}{self.ratio:>8.2f}  {sign} {self.bound:g}"


def report(claims: Sequence[Claim]) -> int:
    """Print the claims, one per line, and return the exit code: 1 if a bound is missed."""
    print(f"\n{'':7}{'':44}{'ours':>11}{'theirs':>11}{'ratio':>8}  bound")
    for claim in claims:
        print(claim)
    return 0 if all(claim.kept for claim in claims) else 1
