"""Verdicts by thresholds, and the stated risk that decides."""

import numpy as np
import pytest

from mnist_runtime import OptionError
from mnist_runtime.verdicts import VERDICTS, Rule, Thresholds

THRESHOLDS = Thresholds({0.001: 0.87, 0.01: 0.4}, 0.125)


def test_numbers_and_arrays_are_judged_alike():
    rule = Rule(0.87, 0.125)
    probability, no_digit = np.random.default_rng(0).random((2, 1000))
    judged = rule.judge(probability, no_digit)
    assert judged.dtype == np.int64
    assert set(judged.tolist()) == {0, 1, 2}
    assert judged.tolist() == [rule.judge(*pair) for pair in zip(probability.tolist(), no_digit.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("probability", "no_digit", "verdict"),
    [
        (0.99, 0.0, "digit"),
        (0.87, 0.0, "digit"),
        (0.8699, 0.0, "unsure"),
        (0.96, 0.1, "unsure"),
        (0.9, 0.5, "no digit"),
        (0.1, 1.0, "no digit"),
        (0.1, 0.0, "unsure"),
    ],
)
def test_no_digit_is_judged_first_and_confidence_next(probability, no_digit, verdict):
    assert VERDICTS[Rule(0.87, 0.125).judge(probability, no_digit)] == verdict


def test_without_thresholds_every_answer_is_a_digit_unless_no_digit_is_likelier():
    rule = Thresholds().rule(None, "it")
    assert [VERDICTS[rule.judge(*answer)] for answer in ((0.2, 0.0), (0.6, 0.3), (0.6, 0.4))] == [
        *("digit", "digit", "no digit")
    ]


@pytest.mark.parametrize(
    ("max_error", "least"),
    [(None, 0.87), (0.001, 0.87), (0.005, 0.87), (0.01, 0.4), (0.2, 0.4), (1, 0.0)],
)
def test_the_largest_stated_risk_up_to_the_one_asked_for_decides(max_error, least):
    assert THRESHOLDS.rule(max_error, "it") == Rule(least, 0.125)


@pytest.mark.parametrize(
    ("thresholds", "max_error", "sentence"),
    [
        (THRESHOLDS, 0.0001, "m.onnx states no risk as low as max_error=0.0001: its least is 0.001; give that or more"),
        (Thresholds(), 0.5, "m.onnx states no risk as low as max_error=0.5: it states none; export it again"),
        (THRESHOLDS, 0, "max_error is 0, and must be"),
        (THRESHOLDS, 1.5, "max_error is 1.5, and must be"),
        (THRESHOLDS, float("nan"), "max_error is nan, and must be"),
    ],
)
def test_a_risk_that_the_model_does_not_state_is_refused(thresholds, max_error, sentence):
    with pytest.raises(OptionError) as refusal:
        thresholds.rule(max_error, "m.onnx")
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("thresholds", [THRESHOLDS, Thresholds(), Thresholds({0.01: 0.0})])
def test_thresholds_survive_the_metadata(thresholds):
    assert Thresholds.from_text(thresholds.to_text()) == thresholds


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"confidence": {}}', '{"confidence": {"x": 1}, "odds": 1}', "[" * 10**5),
        *('{"confidence": {"0.1": 2}, "odds": 1}', '{"confidence": {"7": 0.5}, "odds": 1}'),
        *(
            '{"confidence": {}, "odds": 0}',
            '{"confidence": {}, "odds": NaN}',
            '{"confidence": {"0.1": NaN}, "odds": 1}',
        ),
    ],
)
def test_other_text_is_no_thresholds(text):
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds.from_text(text)
