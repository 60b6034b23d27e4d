"""Pinecone's SDK makes, fills, asks and removes indexes of a catalog."""

from pathlib import Path

import pinecone
import pytest
from pinecone.exceptions import NotFoundException, PineconeApiException

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
