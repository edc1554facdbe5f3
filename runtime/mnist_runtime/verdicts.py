"""Verdicts: the rule that separates digits from other pictures, and sure answers from unsure ones.

The probability of a label, given that the picture shows a digit, times the probability that it shows one, is the
*confidence* of the answer. Two thresholds decide, both chosen at export on validation digits: the odds of no digit
against the label above which the verdict is "no digit", and the least confidence of a "digit". The rest is "unsure".
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from mnist_runtime.errors import OptionError

Verdict: TypeAlias = Literal["digit", "unsure", "no digit"]

VERDICTS: tuple[Verdict, ...] = ("digit", "unsure", "no digit")
"""Verdicts by the number that `Rule.judge` returns."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Two thresholds that turn probabilities into verdicts; by default the most probable of eleven classes wins."""

    confidence: float = 0.0
    """Least confidence of a "digit"."""
    odds: float = 1.0
    """Odds of no digit against the label above which the verdict is "no digit"."""

    def judge(self, probability: Any, no_digit: Any) -> Any:
        """Return the index in `VERDICTS` for the label's probability and that of no digit.

        Takes and returns Python numbers, or float64 arrays `[N]` and int64 `[N]`.

        >>> rule = Rule(confidence=0.9, odds=0.1)
        >>> [VERDICTS[rule.judge(*answer)] for answer in ((0.99, 0.01), (0.8, 0.01), (0.99, 0.5))]
        ['digit', 'unsure', 'no digit']
        """
        confidence = probability * (1 - no_digit)
        unsure, none = confidence < self.confidence, no_digit > confidence * self.odds
        return unsure + none * (2 - unsure)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a model, with the risk that it states for each confidence; stored in its metadata."""

    confidence: Mapping[float, float] = field(default_factory=dict)
    """Least confidence by stated risk: the share of wrong labels among the answers of at least that confidence."""
    odds: float = 1.0
    """Odds of no digit against the label above which the verdict is "no digit"."""

    def rule(self, max_error: float | None, model: str) -> Rule:
        """Return the rule that lets at most a share of `max_error` of the answers be wrong.

        Args:
            max_error: Risk above 0 and up to 1, which asks for no confidence; the largest stated risk up to
                `max_error` decides. None stands for the least stated risk.
            model: Name of the model, for the error.

        Raises:
            OptionError: the model states no risk as low as `max_error`.
        """
        stated = {**self.confidence, 1.0: 0.0}
        if max_error is None:
            return Rule(stated[min(stated)], self.odds)
        if not 0 < max_error <= 1:
            raise OptionError(f"max_error is {max_error!r}, and must be a share of wrong answers above 0 and up to 1")
        if kept := [risk for risk in stated if risk <= max_error]:
            return Rule(stated[max(kept)], self.odds)
        least = (
            f"its least is {min(self.confidence):g}; give that or more"
            if self.confidence
            else "it states none; export it again"
        )
        raise OptionError(f"{model} states no risk as low as max_error={max_error:g}: {least}")

    def to_text(self) -> str:
        """Encode as JSON, for the metadata."""
        confidence = {f"{risk:g}": least for risk, least in sorted(self.confidence.items())}
        return json.dumps({"confidence": confidence, "odds": self.odds})

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Decode what `to_text` encoded.

        Raises:
            ValueError: the text is something else.
        """
        try:
            document = json.loads(text)
            confidence = {float(risk): float(least) for risk, least in document["confidence"].items()}
            odds = float(document["odds"])
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(f"these are no thresholds of mnist-export ({error})") from error
        if not all(0 < risk < 1 and 0 <= least <= 1 for risk, least in confidence.items()) or not 0 < odds < math.inf:
            raise ValueError("thresholds are out of range")
        return cls(confidence, odds)
