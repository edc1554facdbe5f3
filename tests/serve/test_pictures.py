"""Threads that no stop waits for."""

import subprocess
import sys
import threading

from mnist_serve.pictures import DaemonThreads


def test_threads_call_and_raise_and_skip_what_is_cancelled():
    threads, called = DaemonThreads(2), []
    assert [threads.submit(int, text).result() for text in "123"] == [1, 2, 3]
    assert isinstance(threads.submit(int, "x").exception(), ValueError)
    alone, go = DaemonThreads(1), threading.Event()
    waiting, left, last = (
        alone.submit(go.wait),
        alone.submit(called.append, "left"),
        alone.submit(called.append, "last"),
    )
    assert left.cancel()
    go.set()
    assert waiting.result()
    assert last.exception() is None
    assert called == ["last"]


def test_a_process_ends_while_its_threads_are_busy():
    code = (
        "import threading; from mnist_serve.pictures import DaemonThreads; started = threading.Event(); "
        "DaemonThreads(1).submit(lambda: started.set() or threading.Event().wait()); started.wait()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
