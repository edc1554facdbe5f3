"""File formats, recognised by their first bytes and not by their names."""

import re

_FORMATS = {
    "array": rb"\x93NUMPY|\0\0[\x08\x09\x0b-\x0e][\x01-\x04]",  # .npy; IDX: two zeros, a type, a number of dimensions
    "zip": rb"PK\x03\x04|PK\x05\x06",
    "image": rb"\x89PNG|\xff\xd8\xff|GIF8|BM....\0\0\0\0|RIFF....WEBP|II\*\0|MM\0\*|....ftyp(avif|avis|mif1)",
    "text": rb"(\xef\xbb\xbf)?[\t\n\r -~]+\Z",
}
_LONGEST = 16  # bytes, enough to distinguish all formats


def recognise(start: bytes) -> str | None:
    r"""Return "array" (.npy or IDX), "zip", "image" or "text" for the first bytes of a file, None for other files.

    >>> recognise(b"\x93NUMPY\x01\x00"), recognise(b"label,pixel0,pixel1"), recognise(b"PAR1\x15\x04")
    ('array', 'text', None)
    """
    start = start[:_LONGEST]
    return next((name for name, pattern in _FORMATS.items() if re.match(pattern, start, re.DOTALL)), None)
