"""Threads that do not hold up the end of the process."""

import subprocess
import sys
import threading

from mnist_serve.pictures import DaemonThreads


def test_threads_return_raise_and_skip_cancelled_calls():
    threads, called = DaemonThreads(2), []
    assert [threads.submit(int, text).result() for text in "123"] == [1, 2, 3]
    assert isinstance(threads.submit(int, "x").exception(), ValueError)
    alone, go = DaemonThreads(1), threading.Event()
    waiting = alone.submit(go.wait)
    cancelled, last = (alone.submit(called.append, name) for name in ("cancelled", "last"))
    assert cancelled.cancel()
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
