"""A corpus with metadata in three shards, for what is counted, grouped and ordered over all of it, and its oracle."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shoal
from shoal.records import Passage
from shoal.settings import LexicalSettings
from tests.support.filtering import POOLS
from tests.support.indexes import passages, publish

COUNT = 240
"""Passages of the corpus."""
PATIENT: dict[str, Any] = {"shard_patience_ms": 600_000, "timeout_ms": 60_000}
"""Settings by which no shard is given up on a machine that has much else to do."""
SHARDS = 3
"""Shards that they lie in."""


def corpus() -> list[Passage]:
    """Passages whose ids are pieces of documents, with random metadata, some of whose texts are equal."""
    draw = random.Random(7)
    content = []
    for number, passage in enumerate(passages(COUNT)):
        metadata = {name: draw.choice(pool) for name, pool in POOLS.items() if draw.random() < 0.7}
        if "tags" in metadata:
            metadata["tags"] = draw.choices(POOLS["tags"], k=draw.randrange(4))
        text = content[number - 1].text if number % 6 == 5 else passage.text
        document = min(number // 4, 40)  # some of four pieces, and one of eighty
        content.append(Passage(f"d{document:02d}#{number}", text, metadata=metadata))
    return content


@contextmanager
def opened(folder: Path, written: bool = False, **settings: Any) -> Iterator[shoal.Index]:
    """Publish the corpus and open it in this process.

    written: whether it comes about by writes to a version that is another in half of its passages.
    """
    content = corpus()
    publish(
        folder / "index",
        "v1",
        earlier(content) if written else content,
        shards=SHARDS,
        lexical=LexicalSettings(),
        writable=written,
    )
    with shoal.open(folder / "index", **{"reranker": "none", **PATIENT, **settings}) as index:
        if written:
            write(index, content)
        yield index


def earlier(content: Sequence[Passage]) -> list[Passage]:
    """The corpus before it was written to: without some, with others that are deleted, and some as they were."""
    kept = [passage for number, passage in enumerate(content) if number % 4]
    changed = [
        Passage(passage.id, f"{passage.text} once", metadata=other.metadata) if number % 3 == 0 else passage
        for number, (passage, other) in enumerate(zip(kept, kept[1:] + kept[:1], strict=True))
    ]
    former = [
        Passage(passage.id, passage.text, metadata={**passage.metadata, "lang": "xx"}) if number % 3 == 1 else passage
        for number, passage in enumerate(changed)
    ]
    deleted = [
        Passage(f"gone#{number}", passage.text, metadata=passage.metadata) for number, passage in enumerate(kept[:60])
    ]
    return [*former, *deleted]


def write(index: shoal.Index, content: Sequence[Passage]) -> None:
    """Make the earlier corpus this one: in several requests of new, changed, updated and deleted passages."""
    was = {passage.id: passage for passage in earlier(content)}
    new = [passage for passage in content if passage.id not in was]
    changed = [passage for passage in content if passage.id in was and passage.text != was[passage.id].text]
    updated = [
        passage
        for passage in content
        if passage.id in was and passage.text == was[passage.id].text and passage.metadata != was[passage.id].metadata
    ]
    assert new
    assert changed
    assert updated
    for part in (new[:7], changed, new[7:]):
        index.upsert({"id": each.id, "text": each.text, "metadata": dict(each.metadata)} for each in part)
    index.update([{"id": each.id, "metadata": {"lang": each.metadata.get("lang")}} for each in updated])
    index.delete(sorted(was.keys() - {passage.id for passage in content}))


def column_value(field: str, value: Any) -> Any:
    """What two values are compared by: a timestamp is a moment, whatever its zone and form."""
    if field != "at":
        return value
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
