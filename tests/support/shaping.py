"""A corpus with metadata in three shards, for what is counted, grouped and ordered over all of it, and its oracle."""

import random
from collections.abc import Iterator
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
def opened(folder: Path, **settings: Any) -> Iterator[shoal.Index]:
    """Publish the corpus and open it in this process."""
    publish(folder / "index", "v1", corpus(), shards=SHARDS, lexical=LexicalSettings())
    with shoal.open(folder / "index", **{"reranker": "none", **PATIENT, **settings}) as index:
        yield index


def column_value(field: str, value: Any) -> Any:
    """What two values are compared by: a timestamp is a moment, whatever its zone and form."""
    if field != "at":
        return value
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
