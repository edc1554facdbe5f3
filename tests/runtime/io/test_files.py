"""Files are read within limits, and written whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from mnist_runtime.errors import FileMissingError, FileReadError, FileWriteError
from mnist_runtime.io.files import ensure_writable, read_whole, write_atomically


def test_a_written_file_is_read_back(tmp_path):
    write_atomically(tmp_path / "new folder" / "a file", b"bytes")
    assert read_whole(tmp_path / "new folder" / "a file", limit=5, wanted="") == b"bytes"


def test_nothing_else_is_left_in_the_folder(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_at_the_path_is_kept(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileWriteError, match=r"cannot write .*there"):
        write_atomically(tmp_path / "there", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(FileWriteError):
        write_atomically(tmp_path / "file" / "inner", b"x")
    with pytest.raises(FileWriteError, match="choose another path"):
        ensure_writable(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_the_check_of_a_folder_leaves_nothing_behind(tmp_path):
    ensure_writable(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


KILLED_WHILE_WRITING = """
import os, signal, sys
from mnist_runtime.io import files
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(sys.argv[1], b"new" * 1000)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_process_killed_before_the_rename_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path / "file"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(("content", "sentence"), [(b"", "is empty"), (b"123456", "is larger than")])
def test_files_of_a_wrong_size_are_refused(tmp_path, content, sentence):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FileReadError, match=sentence):
        read_whole(tmp_path / "file", limit=5, wanted="give another")


def test_a_device_or_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(FileReadError, match="is a pipe or a device, not a file; give a file"):
            read_whole(path, limit=1000, wanted="give a file")


def test_a_missing_file_a_folder_and_an_impossible_name_say_what_to_give(tmp_path):
    with pytest.raises(FileMissingError, match="does not exist; give a model"):
        read_whole(tmp_path / "absent", limit=5, wanted="give a model")
    with pytest.raises(FileReadError, match="is a folder; give a model"):
        read_whole(tmp_path, limit=5, wanted="give a model")
    with pytest.raises(FileReadError, match=r"cannot be read .*; give a model"):
        read_whole(tmp_path / ("x" * 300), limit=5, wanted="give a model")


IN_LITTLE_MEMORY = """
import resource, sys
from mnist_runtime.io.files import read_whole
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
print(len(read_whole(sys.argv[1], limit=2**34, wanted="")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded with Linux's RLIMIT_AS and /proc")
def test_reading_takes_the_memory_of_the_file_and_not_of_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, tmp_path / "file"]
    result = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (result.stdout, result.stderr) == (b"3000000\n", b"")


def test_an_impossible_name_is_refused_for_writing():
    with pytest.raises(FileWriteError, match="null byte"):
        write_atomically("a\0b", b"x")
    with pytest.raises(FileWriteError, match="choose another path"):
        ensure_writable("a\0b")
