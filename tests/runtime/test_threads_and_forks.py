"""One classifier in many threads, after fork, pickled into processes, awaited, and closed."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from mnist_runtime import Classifier, ClosedError, MnistRuntimeError, OptionError
from mnist_runtime.cpus import cgroup_quotas, usable_cpus


def test_threads_that_share_a_classifier_all_get_its_answers(test_split):
    digits, classifier = test_split.images, Classifier()
    wanted = classifier.predict(digits)
    parts = np.array_split(digits, 40)
    with ThreadPoolExecutor(8) as pool:
        assert np.array_equal(np.concatenate(list(pool.map(classifier.predict, parts))), wanted)


def test_asyncio_awaits_it_in_a_thread(test_split):
    classifier = Classifier()

    async def recognise():
        return await asyncio.gather(
            *(asyncio.to_thread(classifier.classify, digit) for digit in test_split.images[:50])
        )

    assert [said.label for said in asyncio.run(recognise())] == classifier.predict(test_split.images[:50]).tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_answers_though_its_parents_threads_stayed_behind(threads):
    program = f"""
import os, numpy as np
from mnist_runtime import Classifier
classifier = Classifier(threads={threads})
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


def test_pickled_into_a_process_it_answers_the_same(test_split):
    classifier = Classifier(threads=2)
    digits = test_split.images[:100]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(classifier.decision_function, digits).result(timeout=60)
    assert np.array_equal(there, classifier.decision_function(digits))


def test_session_options_cannot_be_pickled_and_it_says_so():
    with pytest.raises(OptionError, match="session_options cannot be pickled"):
        pickle.dumps(Classifier(session_options=ort.SessionOptions()))


def test_closing_frees_the_session_and_later_calls_say_so():
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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threads": 0}, "whole number from 1"),
        ({"threads": True}, "whole number from 1"),
        ({"threads": "all"}, "whole number from 1"),
        ({"providers": "CPUExecutionProvider"}, "must be a list"),
        ({"providers": []}, "must be a list"),
        ({"providers": 3}, "must be a list"),
        ({"providers": [()]}, "a provider is .*, and must be a name"),
        ({"providers": [("CPUExecutionProvider", 3)]}, "a provider is .*, and must be a name"),
        ({"trusted_contract": "x"}, 'trusted_contract is .*, and must be "float32" or "uint8"'),
        ({"providers": [("AbacusExecutionProvider", {"beads": 10})]}, "no AbacusExecutionProvider; it has "),
        ({"threads": 2**40}, "whole number from 1 to 1,024"),
        ({"session_options": 3}, "session_options is a int, and must be onnxruntime.SessionOptions"),
        ({"providers": ["AbacusExecutionProvider"]}, "no AbacusExecutionProvider; it has "),
        ({"model": 7}, "a path, bytes or a published folder"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence) as caught:
        Classifier(**options)
    assert isinstance(caught.value, (MnistRuntimeError, ValueError))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_auto_threads_respect_the_affinity():
    program = (
        "import os; from mnist_runtime.cpus import usable_cpus; os.sched_setaffinity(0, {%d}); print(usable_cpus())"
    )
    cpu = min(os.sched_getaffinity(0))
    assert subprocess.check_output([sys.executable, "-c", program % cpu]) == b"1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    assert Classifier(threads="auto").artifact.session.get_session_options().intra_op_num_threads == usable_cpus()


def cgroups(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("membership", "files", "quotas"),
    [
        ("0::/pod/app\n", {"cg/pod/app/cpu.max": "max 100000\n", "cg/pod/cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/\n", {"cg/cpu.max": "50000 100000\n"}, [0.5]),
        (
            "4:memory:/m\n3:cpu,cpuacct:/app\n",
            {"cg/cpu,cpuacct/app/cpu.cfs_quota_us": "200000\n", "cg/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n"},
            [2.0],
        ),
        ("3:cpu:/\n", {"cg/cpu/cpu.cfs_quota_us": "-1\n", "cg/cpu/cpu.cfs_period_us": "100000\n"}, []),
        ("", {}, []),
    ],
)
def test_auto_threads_read_the_quota_of_every_cgroup_above(tmp_path, membership, files, quotas):
    folder = cgroups(tmp_path, {"self": membership, **files})
    assert list(cgroup_quotas(folder / "self", folder / "cg")) == quotas


def test_idle_threads_do_not_spin_and_ours_is_one():
    options = Classifier().artifact.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_settings_of_the_caller_reach_onnxruntime():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    classifier = Classifier(providers=[("CPUExecutionProvider", {})], session_options=options)
    taken = classifier.artifact.session.get_session_options()
    assert taken.intra_op_num_threads == 3
    assert taken.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert classifier.artifact.session.get_providers() == ["CPUExecutionProvider"]


def test_auto_threads_are_no_more_than_the_quota(monkeypatch):
    monkeypatch.setattr("mnist_runtime.cpus.cgroup_quotas", lambda: iter([7.5, 0.5]))
    assert usable_cpus() == 1
