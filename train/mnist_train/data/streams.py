"""Streams read to their end, or to a limit: what they unpack to is not known before."""

import io

from mnist_train.errors import DataError

_CHUNK = 2**20


def read_stream(file: io.BufferedIOBase, limit: int, name: str) -> io.BytesIO:
    """Read all of `file`, at most `limit` bytes, taking no more memory than comes.

    Raises:
        DataError: there are more.
    """
    buffer = io.BytesIO()
    while chunk := file.read(_CHUNK):
        buffer.write(chunk)
        if buffer.tell() > limit:
            raise DataError(
                f"{name} unpacks to more than {limit >> 20:,} MiB; give the arrays as .npy files in a folder"
            )
    buffer.seek(0)
    return buffer
