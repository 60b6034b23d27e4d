"""A writer whose version is replaced by one that holds other documents."""

from shoal.index_root.manifest import LOG_FORMAT_VERSION, LogInfo
from shoal.testing.writes import MemoryVersion
from shoal.writing.requests import PassageWrite, Written
from tests.support.writing import Writing, manifest


async def test_what_a_later_version_has_left_out_is_written_again() -> None:
    """Such as that of a build with --drop-live."""
    writing = Writing()
    await writing.write(PassageWrite("dropped", "one"))
    complete = manifest().model_copy(update={"log": LogInfo(position=1), "format_version": LOG_FORMAT_VERSION})
    writing.served = MemoryVersion(complete, [], writing.log)
    writing.served.position = 1
    assert await writing.write(PassageWrite("dropped", "one")) == Written(position=2, written=1, unchanged=0)
    (written,) = writing.log.read()[-1].documents
    assert written.retired.passages == 0
    assert await writing.write(PassageWrite("dropped", "one")) == Written(position=2, written=0, unchanged=1)
    writing.writer.close()
