"""The classifier in scikit-learn: metrics, scorers, FrozenEstimator and calibration."""

import warnings

import numpy as np
import pytest

from mnist_runtime import Classifier, OptionError


@pytest.fixture(scope="module", autouse=True)
def _import_sklearn():
    """Import scikit-learn where these tests run, because its import would take seconds at collection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sklearn.calibration
        import sklearn.frozen
        import sklearn.metrics  # noqa: F401


def test_sklearns_metrics_and_scorers_take_the_classifier(test_split):
    from sklearn.metrics import accuracy_score, get_scorer, log_loss, top_k_accuracy_score

    classifier, X, y = Classifier("linear"), test_split.images.reshape(-1, 784), test_split.labels
    assert accuracy_score(y, classifier.predict(X)) == np.mean(classifier.predict(X) == y)
    assert log_loss(y, classifier.predict_proba(X)) < 0.4
    assert top_k_accuracy_score(y, classifier.decision_function(X), k=3, labels=classifier.classes_) > 0.97
    for scorer in ("accuracy", "neg_log_loss", "balanced_accuracy"):
        assert np.isfinite(get_scorer(scorer)(classifier, X, y))


def test_a_frozen_estimator_wraps_and_calibrates_the_classifier(test_split):
    from sklearn.base import is_classifier
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.utils.validation import check_is_fitted

    classifier, X, y = Classifier("linear"), test_split.images.reshape(-1, 784)[:2000], test_split.labels[:2000]
    assert is_classifier(classifier)
    check_is_fitted(classifier)
    frozen = FrozenEstimator(classifier)
    assert np.array_equal(frozen.predict(X), classifier.predict(X))
    assert np.array_equal(frozen.fit(X, y).decision_function(X), classifier.decision_function(X))
    calibrated = CalibratedClassifierCV(frozen).fit(X, y)
    assert np.mean(calibrated.predict(X) == y) > 0.85


def test_fit_is_refused_because_the_classifier_is_trained():
    with pytest.raises(OptionError, match="FrozenEstimator"):
        Classifier().fit([[0]], [0])


def test_a_closed_classifier_is_not_fitted():
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    classifier = Classifier()
    classifier.close()
    with pytest.raises(NotFittedError):
        check_is_fitted(classifier)
