"""Archives that documents are: bounded before they are unfolded."""

import io
import zipfile

from shoal.extraction.document_types import MIB, Unreadable

MOST_UNFOLDED = 512 * MIB
"""Bytes that all members of an archive may have; their sizes are what it says of them, and no more of them is read."""
MOST_MEMBERS = 20_000
"""Members of an archive."""


def check_archive(data: bytes) -> None:
    """Raise Unreadable for what is no archive, or one of too many or too large members."""
    open_archive(data).close()


def open_archive(data: bytes) -> zipfile.ZipFile:
    """Open an archive. Raises Unreadable for what is none, or has too many or too large members."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise Unreadable(f"is damaged, or encrypted, or none of its type ({error})") from error
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise Unreadable(f"holds {len(members):,} parts, more than {MOST_MEMBERS:,}")
    if (size := sum(member.file_size for member in members)) > MOST_UNFOLDED:
        raise Unreadable(f"unfolds into {size:,} bytes, more than {MOST_UNFOLDED:,}")
    return archive
