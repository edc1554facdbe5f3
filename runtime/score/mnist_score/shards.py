"""Shards of an input: its .parquet and .npy files."""

from pathlib import Path, PurePosixPath

from mnist_runtime.errors import FileMissingError, FileReadError, OptionError
from mnist_runtime.io.files import reading
from mnist_score.job import Shard
from mnist_score.storage import Place

_SUFFIXES = (".parquet", ".npy")
_WANTED = "give a .parquet or .npy file, or a folder of them"


def list_shards(place: Place) -> tuple[Place, list[Shard]]:
    """Return the folder of an input, which is a folder or a file, and its shards, sorted by name.

    The shards of a folder are all .parquet and .npy files below it, except those whose own name or folder begins with
    "." or "_", as in Hadoop, Spark and Hive. Links are followed; broken ones are skipped.

    Raises:
        FileMissingError: there is nothing at that place, or no shard.
        FileReadError: the place cannot be listed, or a shard is a pipe or a device.
        OptionError: two shards are the same file, or would write the same file.
    """
    info = place.info()
    if info.type.name == "Directory":
        folder = place
        found = {name: entry for name, entry in place.entries().items() if not _is_hidden(name)}
    else:
        folder, found = place.parent, {} if info.type.name == "NotFound" else {info.base_name: info}
    shards: list[Shard] = []
    names: dict[Path, str] = {}  # by resolved path, because a link to a folder above would repeat its shards
    for name, entry in found.items():
        if not name.endswith(_SUFFIXES) or entry.type.name == "Directory":
            continue
        if not entry.is_file:  # such as a pipe, which cannot be read twice
            raise FileReadError(f"{folder.file(name)} is a pipe or a device; {_WANTED}")
        if folder.is_local:
            path = Path(folder.file(name))
            with reading(path, _WANTED):
                shards.append(Shard.of_file(name, path))
            if (first := names.setdefault(path.resolve(), name)) != name:
                raise OptionError(f"{path} is a link to the shard {first}, or lies below a link; remove the link")
        else:
            shards.append(Shard(name, entry.size, entry.mtime_ns or 0))
    if not shards:
        missing = "does not exist" if info.type.name == "NotFound" else "holds no .parquet and no .npy"
        raise FileMissingError(f"{place.path} {missing}; {_WANTED}")
    taken = {str(above) for shard in shards for above in PurePosixPath(shard.output).parents}
    for shard in shards:
        if shard.output in taken:
            raise OptionError(f"two shards of {place.path} would write {shard.output}; rename one of them")
        taken.add(shard.output)
    return folder, shards


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
