"""A writer over a log and a version in memory."""

import time
from collections.abc import Sequence
from typing import Any

from shoal.index_root.manifest import LexicalInfo, Manifest
from shoal.records import Passage
from shoal.testing.fakes import DIM
from shoal.testing.writes import MemoryEmbedder, MemoryLog, MemoryVersion
from shoal.writing.requests import DeleteRequest, MetadataUpdate, PassageWrite, UpdateRequest, WriteRequest
from shoal.writing.writer import Writer
from tests.support.manifests import describe

LEXICAL = LexicalInfo(
    analyzer="unicode-1", language="english", stopwords=True, k1=1.2, b=0.75, passages=0, mean_length=0
)


def manifest(fields: dict[str, Any] | None = None, **build: Any) -> Manifest:
    """Of a version of the fakes, whose build had these settings."""
    described = describe("v1", [], dim=DIM, fields=fields)
    return described.model_copy(update={"build": build, "lexical": LEXICAL})


def in_time() -> float:
    """A deadline that nothing misses."""
    return time.monotonic() + 60


class Writing:
    """A writer, with all that it works on."""

    def __init__(
        self,
        passages: Sequence[Passage] = (),
        entries: list[bytes] | None = None,
        described: Manifest | None = None,
        **options: Any,
    ) -> None:
        self.log = MemoryLog(entries)
        self.version = MemoryVersion(described or manifest(), passages, self.log, options.pop("codec", None))
        self.encoder = MemoryEmbedder()
        self.served: Any = self.version
        options = {"max_requests": 8, **options}
        self.writer = Writer(self.log, self.encoder, lambda: self.served, **options)

    async def write(self, *passages: PassageWrite, **attempt: Any) -> Any:
        return await self.writer.write(WriteRequest(passages=passages, **{"deadline": in_time(), **attempt}))

    async def delete(self, *ids: str, **attempt: Any) -> Any:
        return await self.writer.delete(DeleteRequest(ids=ids, **{"deadline": in_time(), **attempt}))

    async def select(self, tree: Any = None, **attempt: Any) -> Any:
        return await self.writer.delete(DeleteRequest(**{"deadline": in_time(), **attempt}), tree)

    async def update(self, *updates: MetadataUpdate, **attempt: Any) -> Any:
        return await self.writer.update(UpdateRequest(updates=updates, **{"deadline": in_time(), **attempt}))

    def state(self) -> dict[str, str]:
        """The text of every document, as the log has left them."""
        self.version._apply(len(self.log.entries))
        documents = self.version.documents.items()
        return {name: " ".join(stored.passage.text for stored in document.passages) for name, document in documents}
