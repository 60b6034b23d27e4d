"""Pinecone's SDK makes, fills, asks and removes indexes of a catalog."""

from pathlib import Path

import pinecone
import pytest
from pinecone.exceptions import PineconeApiException

import shoal
from tests.support.indexes import passages, publish
from tests.support.local_server import serving_locally
from tests.support.pinecone_catalog import ADMIN, check_indexes_come_and_go, options


def test_indexes_come_and_go(tmp_path: Path) -> None:
    publish(tmp_path / "articles", "v1", passages(12), shards=1)
    with serving_locally(tmp_path / "articles", reranker="overlap", **options(tmp_path)) as url:
        check_indexes_come_and_go(url, tmp_path / "catalog")
        _check_a_field_of_ones_own(pinecone.Pinecone(api_key=ADMIN, host=url), url)


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
