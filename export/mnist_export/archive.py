"""Canonical ZIP archives of torch: equal programs give equal bytes, which carry no trace of the machine.

torch's own writer adds the file's name as the archive's root, `.debug_pkl` records with the machine's source paths, and
a `serialization_id`; all three are removed. The other records are sorted by name and aligned as torch aligns them, so
that torch and libtorch load the archive as before.
"""

import io
import zipfile
from collections.abc import Callable

ROOT = "mnist"
"""The archive's root folder."""

_ALIGNMENT = 64  # bytes; torch aligns every record so that tensors can be used where they lie in the file
_LOCAL_HEADER = 30  # bytes of a ZIP entry's header before its name (APPNOTE.TXT, 4.3.7)
_PADDING_ID = b"FB"  # torch's id of the padding in a ZIP entry's extra field


def canonical(archive: bytes, edit: Callable[[str, bytes], bytes]) -> bytes:
    """Rewrite `archive` with each record replaced by `edit(name, content)`; `name` comes without the root."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(packed, "w") as target:
        for name in sorted(source.namelist()):
            record = name.split("/", 1)[1]
            if record.endswith(".debug_pkl") or record == ".data/serialization_id":
                continue
            entry = zipfile.ZipInfo(f"{ROOT}/{record}")  # its date is ZIP's first, 1980-01-01
            entry.extra = _padding(packed.tell() + _LOCAL_HEADER + len(entry.filename))
            target.writestr(entry, edit(record, source.read(name)))
    return packed.getvalue()


def _padding(offset: int) -> bytes:
    """Return an extra field that moves data from `offset` to the next multiple of 64."""
    field_header = len(_PADDING_ID) + 2
    length = -(offset + field_header) % _ALIGNMENT
    return _PADDING_ID + length.to_bytes(2, "little") + b"Z" * length
