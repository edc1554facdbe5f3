"""The shards of an input: which files they are, and the name of the file that takes each one's answers."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from mnist_runtime.errors import FileMissingError, FileReadError, OptionError
from mnist_score.storage import Place

_WANTED = "give a .parquet or .npy file, or a folder of them"


@dataclass(frozen=True)
class Shard:
    """One file of digits, scored as a whole by one scorer."""

    name: str
    """Its path within the input's folder, with "/"."""
    size: int
    """In bytes."""
    mtime_ns: int
    """When it was last changed, in nanoseconds since 1970; 0 where the filesystem cannot tell."""

    @property
    def output(self) -> str:
        """The file of its answers within the output's folder."""
        return self.name if self.name.endswith(".parquet") else f"{self.name}.parquet"


def list_shards(place: Place) -> tuple[Place, list[Shard]]:
    """Find the folder that `place` is or lies in, and its shards there, sorted by name.

    Of a folder, all .parquet and .npy files below it are, but for those whose own name or folder begins with "." or
    "_", as Hadoop, Spark and Hive have it.

    Raises:
        FileMissingError: there is nothing there, or no shard in it, or one is a link to nothing.
        FileReadError: it cannot be listed, or is neither file nor folder.
        OptionError: two shards would write the same file.
    """
    info = place.info()
    if info.type.name == "Unknown":  # as of a pipe, which cannot be read twice
        raise FileReadError(f"{place.path} is neither a file nor a folder; {_WANTED}")
    if info.is_file:
        folder, found = place.parent, {info.base_name: info}
    else:
        folder, found = place, {name: info for name, info in place.files().items() if not _is_hidden(name)}
        for name in place.broken_links():
            if not _is_hidden(name):
                raise FileMissingError(
                    f"{place.file(name)} is a link to what is not there, or that it lies in; mend or remove it"
                )
    shards = [
        Shard(name, info.size, info.mtime_ns or 0)
        for name, info in found.items()
        if name.endswith((".parquet", ".npy"))
    ]
    if not shards:
        missing = "is not there" if info.type.name == "NotFound" else "holds no .parquet and no .npy"
        raise FileMissingError(f"{place.path} {missing}; {_WANTED}")
    taken = {str(above) for shard in shards for above in PurePosixPath(shard.output).parents}
    for shard in shards:
        if shard.output in taken:
            raise OptionError(f"two shards of {place.path} would write {shard.output}; rename one of them")
        taken.add(shard.output)
    return folder, shards


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
