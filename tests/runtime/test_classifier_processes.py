"""The classifier in threads, after fork, pickled into processes, awaited, and closed."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest

from mnist_runtime import Classifier, ClosedError, OptionError


def test_threads_can_share_a_classifier(test_split):
    digits, classifier = test_split.images, Classifier()
    wanted = classifier.predict(digits)
    parts = np.array_split(digits, 40)
    with ThreadPoolExecutor(8) as pool:
        assert np.array_equal(np.concatenate(list(pool.map(classifier.predict, parts))), wanted)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mnist-runtime")]


def test_threads_share_the_batches_of_a_call_and_end_with_the_classifier(test_split):
    digits = test_split.images[:1000]
    with Classifier(threads=2) as classifier:
        classifier.predict(digits[: classifier.artifact.batch])
        assert own_threads() == []  # one batch is computed where it is asked for
        assert np.array_equal(classifier.decision_function(digits), Classifier().decision_function(digits))
        predictions = classifier.predictions(digits)
        assert [prediction.label for prediction in predictions] == classifier.predict(digits).tolist()
        started = [thread for thread in threading.enumerate() if thread.name in own_threads()]
        assert len(started) == 2
    for thread in started:
        thread.join(timeout=60)
    assert own_threads() == []


def test_asyncio_can_await_a_classifier_in_a_thread(test_split):
    classifier = Classifier()

    async def recognise():
        return await asyncio.gather(
            *(asyncio.to_thread(classifier.classify, digit) for digit in test_split.images[:50])
        )

    assert [prediction.label for prediction in asyncio.run(recognise())] == classifier.predict(
        test_split.images[:50]
    ).tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_computes_without_the_threads_of_its_parent(threads):
    program = f"""
import os, numpy as np
from mnist_runtime import Classifier
classifier = Classifier("linear", threads={threads})
digits = np.arange(5000 * 784, dtype=np.uint8).reshape(-1, 784)
wanted = classifier.decision_function(digits)
child = os.fork()
if not child:
    assert len(classifier.digests) == len(classifier.replay()) == 2
    raise SystemExit(0 if np.array_equal(classifier.decision_function(digits), wanted) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
if not os.fork():
    raise SystemExit(0)  # a child that has no use for it ends like any other
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


def test_a_pickled_classifier_answers_the_same_in_another_process(test_split):
    classifier = Classifier(threads=2, max_error=0.01)
    digits = test_split.images[:100]
    assert pickle.loads(pickle.dumps(classifier)).max_error == 0.01
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(classifier.decision_function, digits).result(timeout=60)
    assert np.array_equal(there, classifier.decision_function(digits))


def test_session_options_cannot_be_pickled():
    with pytest.raises(OptionError, match="session_options cannot be pickled"):
        pickle.dumps(Classifier(session_options=ort.SessionOptions()))


def test_closing_frees_the_session_and_later_calls_are_refused():
    with Classifier() as classifier:
        session = weakref.ref(classifier.artifact.session)
        classifier.predict(np.zeros((1, 784), np.uint8))
    gc.collect()
    assert session() is None
    assert repr(classifier) == "<Classifier, closed>"
    classifier.close()
    for method in (classifier.predict, classifier.classify, classifier.decision_function, classifier.predict_proba):
        with pytest.raises(ClosedError):
            method(np.zeros((28, 28), np.uint8))
    with Classifier() as classifier:
        predictions = classifier.predictions(np.zeros((3000, 784), np.uint8))
        next(predictions)
    with pytest.raises(ClosedError):
        list(predictions)
    for ask in (lambda: classifier.digests, classifier.replay):
        with pytest.raises(ClosedError):
            ask()
