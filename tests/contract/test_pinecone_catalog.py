"""Pinecone's SDK makes, fills, asks and removes indexes of a catalog."""

from pathlib import Path

import pinecone
import pytest
from pinecone.exceptions import NotFoundException, PineconeApiException

import shoal
from shoal.serving import keys
from tests.support.indexes import passages, publish
from tests.support.local_server import serving_locally

ADMIN, BOUND = keys.make(), keys.make()
SPEC = pinecone.ServerlessSpec(cloud="aws", region="us-east-1")


def test_indexes_come_and_go(tmp_path: Path) -> None:
    publish(tmp_path / "articles", "v1", passages(12), shards=1)
    (tmp_path / "catalog").mkdir()
    lines = [keys.line(ADMIN, "admin", "admin"), keys.line(BOUND, "bound", "write", indexes=["vectors"])]
    (tmp_path / "keys").write_text("\n".join(lines))
    options = {
        "reranker": "overlap",
        "catalog": str(tmp_path / "catalog"),
        "encoders": ["hashing:32"],
        "model_alias": ["multilingual-e5-large=hashing:32"],
        "api_keys_file": str(tmp_path / "keys"),
    }
    with serving_locally(tmp_path / "articles", **options) as url:
        client = pinecone.Pinecone(api_key=ADMIN, host=url)
        made = client.create_index(name="vectors", dimension=3, spec=SPEC)
        assert (made.host, made.dimension) == (f"{url}/i/vectors", 3)
        assert client.has_index("vectors")
        assert set(client.list_indexes().names()) == {"articles", "vectors"}
        with pytest.raises(PineconeApiException, match="already"):
            client.create_index(name="vectors", dimension=3, spec=SPEC)
        index = client.Index("vectors")
        index.upsert(vectors=[{"id": "east", "values": [1, 0, 0]}, {"id": "north", "values": [0, 1, 0]}])
        while index.describe_index_stats().total_vector_count < 2:
            pass
        assert [match.id for match in index.query(vector=[1, 0.1, 0], top_k=2).matches] == ["east", "north"]

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
        assert list((tmp_path / "catalog").iterdir()) == []
        embed = {"model": "multilingual-e5-large", "field_map": {"text": "text"}}
        made = client.create_index_for_model(name="texts", cloud="aws", region="us-east-1", embed=embed)
        assert made.dimension == 32
        _check_a_field_of_ones_own(client, url)


def _check_a_field_of_ones_own(client: pinecone.Pinecone, url: str) -> None:
    """The text of a record lies in the field that the index was created with."""
    embed = {"model": "multilingual-e5-large", "field_map": {"text": "chunk_text"}}
    client.create_index_for_model(name="chunks", cloud="aws", region="us-east-1", embed=embed)
    chunks = client.Index("chunks")
    record = {"_id": "a", "chunk_text": "fish sleep at night", "year": 2020}
    chunks.upsert_records(namespace="__default__", records=[record])
    held = {"chunk_text": "newts swim", "year": 1}
    with shoal.Client(f"{url}/v1/indexes/chunks", api_key=ADMIN) as own:
        (vector,) = own.embed(["newts"], "passage").vectors
    chunks.upsert(vectors=[{"id": "b", "values": vector, "metadata": held}])
    with pytest.raises(PineconeApiException, match=r"setMetadata\.chunk_text should be left out"):
        chunks.update(id="b", set_metadata={"chunk_text": "another"})
    assert chunks.fetch(ids=["b"]).vectors["b"].metadata == held
    query = {"inputs": {"text": "newts swim"}, "top_k": 2}
    for field, refused in (("text", True), ("chunk_text", False)):
        ask = {"model": "overlap", "rank_fields": [field]}
        if refused:
            with pytest.raises(PineconeApiException, match=r"rank_fields should be \['chunk_text'\]"):
                chunks.search(namespace="__default__", query=query, rerank=ask)
            continue
        hits = chunks.search(namespace="__default__", query=query, rerank=ask).result.hits
        assert [hit["id"] for hit in hits] == ["b", "a"]
        assert hits[0].fields == held
    # Shoal's own dialect has the text where it always is, and finds it by its words.
    with shoal.Client(f"{url}/v1/indexes/chunks", api_key=ADMIN) as own:
        (result,) = own.search("newts", mode="lexical", include=["text", "metadata"]).results
        assert (result.id, result.text, result.metadata) == ("b", "newts swim", {"year": 1})
        made = own.create_index("notes", dimension=3, text_field="note")
        assert own.index("notes").describe().text_field == "note"
        own.index("notes").upsert([{"id": "n", "vector": [1, 0, 0], "metadata": {"note": "a red heron"}}])
        assert made.dim == 3
        assert [one.text for one in own.index("notes").search("heron", mode="lexical").results] == ["a red heron"]
