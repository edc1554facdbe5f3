"""Base of every command: its errors, and signals while it starts."""

import signal
import subprocess
import sys

import click
import pytest

from mnist_runtime.console.command import Command, native_imports


def test_an_error_of_something_else_is_not_blamed_on_standard_output(capsys):
    @click.command(cls=Command)
    def fails():
        raise TimeoutError("somewhere else")

    with pytest.raises(TimeoutError, match="somewhere else"):
        fails.main([])
    assert "standard output" not in capsys.readouterr().err


def test_ctrl_c_is_delayed_while_native_modules_are_imported():
    reached = False
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with native_imports():
            signal.raise_signal(signal.SIGINT)
            reached = True
        pytest.fail("the signal was lost")
    assert reached


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("threading.stack_size(2**46); threading.Thread().start()", "no thread can be started; raise the limit of"),
        ("bytearray(2**60)", "there is not enough memory; raise its limit"),
    ],
)
def test_exhausted_memory_or_threads_end_a_command_in_one_sentence(call, sentence):
    code = (
        "import threading, click; from mnist_runtime.console.command import Command\n"
        f"@click.command('x', cls=Command)\ndef x(): {call}\nx([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.startswith(f"Error: {sentence}"), done.stderr.count("\n")) == (1, True, 1)
