"""Thresholds that keep to a stated risk, chosen on digits whose labels are known."""

import math

import numpy as np
import pytest

from mnist_export.risk import LOST, Confidences, choose_thresholds
from mnist_runtime.model.comparison import softmax
from mnist_runtime.verdicts import VERDICTS, Thresholds


def _logits(count: int, width: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of a model that is wrong in some answers, and less sure of them, and the true labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=count)
    logits = rng.normal(size=(count, width))
    logits[np.arange(count), labels] += rng.normal(4, 2, count)
    if width > 10:
        logits[:, 10] -= 2
    return logits, labels


def _verdicts(logits: np.ndarray, thresholds: Thresholds, risk: float) -> np.ndarray:
    probability = softmax(logits[:, :10]).max(axis=1)
    no_digit = softmax(logits)[:, 10] if logits.shape[1] > 10 else np.zeros(len(logits))
    return np.array(VERDICTS)[thresholds.rule(risk, "it").judge(probability, no_digit)]


@pytest.mark.parametrize("width", [10, 11])
@pytest.mark.parametrize("risk", [0.001, 0.01])
def test_the_stated_risk_is_kept_and_one_answer_more_would_break_it(width, risk):
    logits, labels = _logits(20_000, width)
    thresholds = choose_thresholds(logits, labels)
    wrong = logits[:, :10].argmax(axis=1) != labels
    answered = _verdicts(logits, thresholds, risk) == "digit"
    assert 0 < wrong[answered].mean() <= risk
    confidence = Confidences.of(logits).confidence
    unanswered = (_verdicts(logits, thresholds, risk) == "unsure") & wrong
    assert unanswered.any()
    lower = confidence >= confidence[unanswered].max()
    assert wrong[lower & (answered | unanswered)].sum() > risk * answered.sum()


def test_a_thousandth_of_the_digits_is_called_no_digit():
    logits, labels = _logits(20_000, 11)
    thresholds = choose_thresholds(logits, labels)
    assert (_verdicts(logits, thresholds, 1) == "no digit").sum() == LOST * 20_000
    assert choose_thresholds(logits[:, :10], labels).odds == 1.0
    assert (_verdicts(logits[:500], choose_thresholds(logits[:500], labels[:500]), 1) != "no digit").all()


def test_the_odds_lie_midway_between_two_integers_of_an_exact_network():
    logits, labels = _logits(20_000, 11)
    unit = 2.0**-6
    integers = np.rint(logits / unit)
    odds = choose_thresholds(integers * unit, labels, unit).odds
    threshold = math.log(odds) / unit
    assert threshold - math.floor(threshold) == pytest.approx(0.5, abs=1e-9)
    none = integers[:, 10] - integers[:, :10].max(axis=1) > math.floor(threshold)
    assert 0 < none.sum() <= LOST * 20_000
    assert np.array_equal(_verdicts(integers * unit, Thresholds({}, odds), 1) == "no digit", none)


def test_a_model_that_is_always_wrong_states_no_risk_and_one_that_never_is_answers_all():
    logits, _ = _logits(1000)
    assert choose_thresholds(logits, (logits.argmax(axis=1) + 1) % 10).confidence == {}
    assert choose_thresholds(logits, logits.argmax(axis=1)).confidence == {0.001: 0.0, 0.01: 0.0}


def test_confidence_is_the_probability_of_the_label_times_that_of_a_digit():
    logits, _ = _logits(100, 11)
    answers = Confidences.of(logits)
    probability, no_digit = softmax(logits[:, :10]).max(axis=1), softmax(logits)[:, 10]
    np.testing.assert_allclose(answers.confidence, probability * (1 - no_digit))
    np.testing.assert_allclose(np.exp(answers.margin), no_digit / answers.confidence)
