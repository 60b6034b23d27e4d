"""What Pinecone's SDK does with the indexes of a catalog, against a server of any shape."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pinecone
import pytest
from pinecone.exceptions import NotFoundException, PineconeApiException

from shoal.serving import keys

ADMIN, BOUND = keys.make(), keys.make()
SPEC = pinecone.ServerlessSpec(cloud="aws", region="us-east-1")
PATIENCE_S = 60.0
"""Seconds within which what was written is seen everywhere."""


def key_lines() -> str:
    """The lines of a file of keys: of one for all, and of one for the index `vectors` alone."""
    lines = [keys.line(ADMIN, "admin", "admin"), keys.line(BOUND, "bound", "write", indexes=["vectors"])]
    return "\n".join(lines)


def options(folder: Path) -> dict[str, Any]:
    """What a server takes whose catalog lies in a folder, and its file of keys, which is written."""
    (folder / "catalog").mkdir(exist_ok=True)
    (folder / "keys").write_text(key_lines())
    return {
        "catalog": str(folder / "catalog"),
        "encoders": ["hashing:32"],
        "model_alias": ["multilingual-e5-large=hashing:32"],
        "api_keys_file": str(folder / "keys"),
    }


def until(expected: Any, ask: Callable[[], Any]) -> None:
    """Ask until the answer is what is expected; an index is asked in whichever replica of a server."""
    deadline = time.monotonic() + PATIENCE_S
    while (answer := ask()) != expected:
        assert time.monotonic() < deadline, answer


def check_indexes_come_and_go(url: str, catalog: Path) -> None:
    """Make, fill, ask and remove indexes of a server which has, beside its empty catalog, the index `articles`."""
    client = pinecone.Pinecone(api_key=ADMIN, host=url)
    made = client.create_index(name="vectors", dimension=3, spec=SPEC)
    assert (made.host, made.dimension) == (f"{url}/i/vectors", 3)
    assert client.has_index("vectors")
    assert set(client.list_indexes().names()) == {"articles", "vectors"}
    with pytest.raises(PineconeApiException, match="already"):
        client.create_index(name="vectors", dimension=3, spec=SPEC)
    index = client.Index("vectors")
    index.upsert(vectors=[{"id": "east", "values": [1, 0, 0]}, {"id": "north", "values": [0, 1, 0]}])
    until(2, lambda: index.describe_index_stats().total_vector_count)
    until(["east", "north"], lambda: [match.id for match in index.query(vector=[1, 0.1, 0], top_k=2).matches])

    # A key of this index alone sees no other, and cannot tell whether there is one.
    bound = pinecone.Pinecone(api_key=BOUND, host=url)
    assert bound.list_indexes().names() == ["vectors"]
    assert bound.Index("vectors").query(id="east", top_k=1).matches[0].id == "east"
    for name in ("articles", "never"):
        assert not bound.has_index(name)
        with pytest.raises(NotFoundException):
            bound.Index(host=f"{url}/i/{name}").query(id="p1", top_k=1)

    client.delete_index("vectors")
    assert client.list_indexes().names() == ["articles"]
    assert list(catalog.iterdir()) == []
    embed = {"model": "multilingual-e5-large", "field_map": {"text": "text"}}
    made = client.create_index_for_model(name="texts", cloud="aws", region="us-east-1", embed=embed)
    assert made.dimension == 32
