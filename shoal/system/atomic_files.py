"""Files that appear whole: whoever reads one sees the old file, the new one or none, never a part."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; what was written there becomes `path` at the end.

    An error on the way leaves `path` as it was and removes the temporary file. It is meant for one writer at a time; a
    writer that was killed leaves a `.NAME.partial` that the next one overwrites. Nothing is forced to the disk: after a
    power failure the file may be lost (`shoal.index_root.storage` is for what may not).
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as `replaced_file` does."""
    with replaced_file(path) as partial:
        partial.write_bytes(content)
