"""The SDKs of other vendors, as they are, against a server with keys; docs/clients.md shows what came of each call.

The page's table is written by `SHOAL_WRITE_CLIENTS=1 python -m pytest tests/contract/test_vendor_clients.py`. The
versions in it are those that this was run with; what is compared later is the rest.

Long because every call of every client stands here, beside the one table that all of them make.
"""

import asyncio
import importlib.metadata
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import openai
import pinecone
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from shoal.indexing.empty import create_index
from shoal.serving import keys
from shoal.settings import CreateSettings
from tests.support.dialects import (
    ALIASES,
    DOCUMENTS,
    ENCODER,
    QUERY,
    RERANKER,
    publish_articles,
    scores_of,
    vectors_of,
)
from tests.support.indexes import passages
from tests.support.local_server import serving_locally
from tests.support.servers import wait

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- calls -->", "<!-- end of calls -->"
WRITE = "SHOAL_WRITE_CLIENTS" in os.environ
KEY, WRITE_KEY = keys.make(), keys.make()
PATIENCE_S = 60.0
WORKS = "works"


@dataclass(frozen=True)
class Call:
    """A call of a client. `run` gets the URL of a server and a key; it returns what a person would see of an error.

    writes: whether it wants the server whose index began empty, and a key that may write to it.
    """

    package: str
    client: str
    call: str
    run: Callable[[str, str], str | None]
    writes: bool = False

    def row(self, outcome: str) -> str:
        version = importlib.metadata.version(self.package)
        return f"| {self.package} | {version} | {self.client} | {self.call} | {outcome} |"


CALLS: list[Call] = []


def call(package: str, client: str, call: str, *, writes: bool = False) -> Callable[[Any], Any]:
    """Make a function one of CALLS; an async one is run."""

    def add(function: Callable[[str, str], Any]) -> Any:
        def run(url: str, key: str) -> str | None:
            result = function(url, key)
            return asyncio.run(result) if isinstance(result, Awaitable) else result  # type: ignore[arg-type]

        CALLS.append(Call(package, client, call, run, writes))
        return function

    return add


def check_order(places: list[int], scores: list[float]) -> None:
    """The places and scores of the best two documents."""
    assert places == [2, 3]
    assert scores == pytest.approx([scores_of(QUERY, DOCUMENTS)[place] for place in places])


# --- cohere -----------------------------------------------------------------------------------------------------------


@call("cohere", "`ClientV2`", "`rerank`")
def cohere_v2(url: str, key: str) -> None:
    client = cohere.ClientV2(base_url=url, api_key=key)
    answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=2, max_tokens_per_doc=4096)
    check_order([one.index for one in answer.results], [one.relevance_score for one in answer.results])
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.search_units == 1


@call("cohere", "`AsyncClientV2`", "`rerank`")
async def cohere_v2_async(url: str, key: str) -> None:
    answer = await cohere.AsyncClientV2(base_url=url, api_key=key).rerank(
        model=RERANKER, query=QUERY, documents=DOCUMENTS, top_n=2
    )
    check_order([one.index for one in answer.results], [one.relevance_score for one in answer.results])


@call("cohere", "`Client`", "`rerank` with `return_documents` and `rank_fields`")
def cohere_v1(url: str, key: str) -> None:
    client = cohere.Client(base_url=url, api_key=key)
    answer = client.rerank(query=QUERY, documents=DOCUMENTS, top_n=2, model="rerank-v3.5", return_documents=True)
    check_order([one.index for one in answer.results], [one.relevance_score for one in answer.results])
    assert [one.document and one.document.text for one in answer.results] == [DOCUMENTS[2], DOCUMENTS[3]]
    objects: Any = [{"title": "none", "body": text} for text in DOCUMENTS]
    fields = client.rerank(query=QUERY, documents=objects, rank_fields=["body"], top_n=2)
    check_order([one.index for one in fields.results], [one.relevance_score for one in fields.results])


@call("cohere", "`AsyncClient`", "`rerank`")
async def cohere_v1_async(url: str, key: str) -> None:
    answer = await cohere.AsyncClient(base_url=url, api_key=key).rerank(query=QUERY, documents=DOCUMENTS, top_n=2)
    check_order([one.index for one in answer.results], [one.relevance_score for one in answer.results])


@call("cohere", "`ClientV2`", "`rerank` with a model that is not served")
def cohere_model(url: str, key: str) -> str:
    with pytest.raises(cohere.NotFoundError) as refused:
        cohere.ClientV2(base_url=url, api_key=key).rerank(model="rerank-v4.0", query=QUERY, documents=DOCUMENTS)
    return str(refused.value.body["message"])


@call("cohere", "`ClientV2`", "`rerank` with a wrong key")
def cohere_key(url: str, key: str) -> str:
    with pytest.raises(cohere.UnauthorizedError) as refused:
        cohere.ClientV2(base_url=url, api_key="wrong").rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS)
    return str(refused.value.body["message"])


# --- openai -----------------------------------------------------------------------------------------------------------


def openai_client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@call("openai", "`OpenAI`", "`embeddings.create` (base64, the SDK's default)")
def openai_embeddings(url: str, key: str) -> None:
    answer = openai_client(url, key).embeddings.create(model="multilingual-e5-large", input=DOCUMENTS)
    np.testing.assert_array_equal(
        np.array([one.embedding for one in answer.data], np.float32), vectors_of(DOCUMENTS, "passage")
    )
    assert answer.model == ENCODER
    assert answer.usage.total_tokens == sum(len(text.split()) for text in DOCUMENTS)


@call("openai", "`OpenAI`", '`embeddings.create` of queries (`extra_body={"input_type": "query"}`, or `MODEL:query`)')
def openai_queries(url: str, key: str) -> None:
    client = openai_client(url, key)
    by_field = client.embeddings.create(
        model=ENCODER, input=QUERY, encoding_format="float", dimensions=64, extra_body={"input_type": "query"}
    )
    by_name = client.embeddings.create(model=f"{ENCODER}:query", input=QUERY)
    for answer in (by_field, by_name):
        np.testing.assert_array_equal(np.float32(answer.data[0].embedding), vectors_of([QUERY], "query")[0])


@call("openai", "`AsyncOpenAI`", "`embeddings.create`")
async def openai_async(url: str, key: str) -> None:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    answer = await client.embeddings.create(model=ENCODER, input=DOCUMENTS)
    assert np.array([one.embedding for one in answer.data]).shape == (len(DOCUMENTS), 64)


@call("openai", "`OpenAI`", "`models.list`, `models.retrieve`")
def openai_models(url: str, key: str) -> None:
    client = openai_client(url, key)
    names = [model.id for model in client.models.list()]
    assert names[:2] == [ENCODER, "multilingual-e5-large"]
    assert [client.models.retrieve(name).id for name in names] == names


@call("openai", "`OpenAI`", "`embeddings.create` of token ids")
def openai_tokens(url: str, key: str) -> str:
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(url, key).embeddings.create(model=ENCODER, input=[[1, 2], [3]])
    assert (refused.value.param, refused.value.code) == ("input", "INVALID_ARGUMENT")
    return message_of(refused.value)


@call("openai", "`OpenAI`", "`embeddings.create` with more `dimensions` than there are")
def openai_dimensions(url: str, key: str) -> str:
    made = openai_client(url, key).embeddings.create(model=ENCODER, input=QUERY, dimensions=32)
    assert len(made.data[0].embedding) == 32
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client(url, key).embeddings.create(model=ENCODER, input=QUERY, dimensions=65)
    return message_of(refused.value)


@call("openai", "`OpenAI`", "`chat.completions.create`")
def openai_chat(url: str, key: str) -> str:
    with pytest.raises(openai.NotFoundError) as refused:
        openai_client(url, key).chat.completions.create(model="x", messages=[{"role": "user", "content": "hello"}])
    return message_of(refused.value)


@call("openai", "`OpenAI`", "`models.list` with a wrong key")
def openai_key(url: str, key: str) -> str:
    with pytest.raises(openai.AuthenticationError) as refused:
        openai_client(url, "wrong").models.list()
    return message_of(refused.value)


def message_of(error: openai.APIStatusError) -> str:
    body: Any = error.body
    return str(body["message"])


# --- pinecone ---------------------------------------------------------------------------------------------------------


@call("pinecone", "`Pinecone`", "`inference.embed`")
def pinecone_embed(url: str, key: str) -> None:
    client = pinecone.Pinecone(api_key=key, host=url)
    for kind in ("passage", "query"):
        parameters = {"input_type": kind, "truncate": "END"}
        made = client.inference.embed(model="multilingual-e5-large", inputs=DOCUMENTS, parameters=parameters)
        vectors = np.array([one.values for one in made.data], np.float32)  # type: ignore[union-attr]
        np.testing.assert_array_equal(vectors, vectors_of(DOCUMENTS, kind))  # type: ignore[arg-type]
        assert made.model == ENCODER
        assert made.usage.total_tokens == sum(len(text.split()) for text in DOCUMENTS)


@call("pinecone", "`Pinecone`", "`inference.rerank`")
def pinecone_rerank(url: str, key: str) -> None:
    client = pinecone.Pinecone(api_key=key, host=url)
    documents = [{"id": f"d{place}", "chunk_text": text} for place, text in enumerate(DOCUMENTS)]
    answer = client.inference.rerank(
        model="bge-reranker-v2-m3", query=QUERY, documents=documents, rank_fields=["chunk_text"], top_n=2
    )
    check_order([one.index for one in answer.data], [one.score for one in answer.data])
    assert [one.document and one.document["id"] for one in answer.data] == ["d2", "d3"]
    assert answer.model == RERANKER


@call("pinecone", "`AsyncPinecone`", "`inference.embed`, `inference.rerank`")
async def pinecone_async(url: str, key: str) -> None:
    async with pinecone.AsyncPinecone(api_key=key, host=url) as client:
        made = await client.inference.embed(model=ENCODER, inputs=DOCUMENTS)
        assert len(made.data) == len(DOCUMENTS)
        answer = await client.inference.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS, top_n=2)
        check_order([one.index for one in answer.data], [one.score for one in answer.data])


@call("pinecone", "`Pinecone`", "`inference.list_models`, `inference.get_model`")
def pinecone_models(url: str, key: str) -> None:
    client = pinecone.Pinecone(api_key=key, host=url)
    names = client.inference.list_models().names()
    assert {ENCODER, RERANKER, "multilingual-e5-large", "bge-reranker-v2-m3"} <= set(names)
    assert client.inference.get_model(model="multilingual-e5-large").default_dimension == 64


@call("pinecone", "`Pinecone`", "`inference.embed` with a model that is not served")
def pinecone_model(url: str, key: str) -> str:
    with pytest.raises(pinecone.NotFoundError) as refused:
        pinecone.Pinecone(api_key=key, host=url).inference.embed(model="llama-text-embed-v2", inputs=["a"])
    assert refused.value.error_code == "NOT_FOUND"
    return refused.value.message


@call("pinecone", "`Pinecone`", "`inference.list_models` with a wrong key")
def pinecone_key(url: str, key: str) -> str:
    with pytest.raises(pinecone.UnauthorizedError) as refused:
        pinecone.Pinecone(api_key="wrong", host=url).inference.list_models()
    return refused.value.message


def vectors() -> dict[str, Any]:
    """The vectors of the index by the ids of its passages, from the encoder."""
    content = passages(60)
    made = vectors_of([passage.content for passage in content], "passage")
    return {passage.id: vector for passage, vector in zip(content, made, strict=True)}


@call("pinecone", "`Pinecone`", "`list_indexes`, `describe_index`, `has_index`")
def pinecone_indexes(url: str, key: str) -> None:
    client = pinecone.Pinecone(api_key=key, host=url)
    assert client.list_indexes().names() == ["articles"]
    model = client.describe_index("articles")
    assert (model.host, model.dimension, model.metric) == (f"{url}/i/articles", 64, "cosine")
    assert model.status.ready
    assert model.spec.serverless is not None
    assert client.has_index("articles")
    assert not client.has_index("movies")


@call("pinecone", "`Index`", "`query` by vector and by id, with `filter`, `include_metadata`, `include_values`")
def pinecone_query(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    vector = vectors_of([QUERY], "query")[0]
    cosines = {id_: float(each @ vector) for id_, each in vectors().items() if int(id_[1:]) >= 30}
    answer = index.query(
        vector=vector.tolist(),
        top_k=25,
        filter={"number": {"$gte": 30}},
        include_metadata=True,
        include_values=True,
        namespace="__default__",
    )
    scores = [match.score for match in answer.matches]
    np.testing.assert_allclose(scores, sorted(cosines.values(), reverse=True)[:25], atol=1e-5)
    for match in answer.matches:
        assert match.metadata is not None
        assert match.metadata["number"] == int(match.id[1:])
        np.testing.assert_allclose(match.values, vectors()[match.id], atol=1e-6)
    assert index.query(id="p8", top_k=1).matches[0].id == "p8"


@call("pinecone", "`Index`", "`fetch`, `list`, `list_paginated`, `describe_index_stats`")
def pinecone_reading(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    fetched = index.fetch(ids=["p3", "none", "p8"]).vectors
    assert list(fetched) == ["p3", "p8"]
    np.testing.assert_allclose(fetched["p8"].values, vectors()["p8"], atol=1e-6)
    ids = [item.id for page in index.list(prefix="p", limit=25) for item in page.vectors]
    assert ids == sorted(vectors())
    assert len(index.list_paginated(limit=7).vectors) == 7
    stats = index.describe_index_stats()
    assert (stats.total_vector_count, stats.dimension, stats.namespaces[""].vector_count) == (60, 64, 60)


@call("pinecone", "`Index`, `AsyncIndex`", "`fetch_by_metadata`, page by page")
async def pinecone_fetch_by_metadata(url: str, key: str) -> None:
    condition = {"number": {"$gte": 40}}
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    first = index.fetch_by_metadata(filter=condition, limit=15)
    assert first.pagination is not None
    last = index.fetch_by_metadata(filter=condition, limit=15, pagination_token=first.pagination.next)
    assert last.pagination is None
    assert [*first.vectors, *last.vectors] == [f"p{number}" for number in range(40, 60)]
    np.testing.assert_allclose(first.vectors["p40"].values, vectors()["p40"], atol=1e-6)
    async with pinecone.AsyncPinecone(api_key=key, host=url) as client:
        model = await client.indexes.describe("articles")
        async with await client.index(host=model.host) as asynchronous:
            whole = await asynchronous.fetch_by_metadata(filter=condition)
    assert list(whole.vectors) == [*first.vectors, *last.vectors]


@call("pinecone", "`Index`", "`search` (records) with `rerank`, `list_namespaces`, `describe_namespace`")
def pinecone_records(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    rerank = {"model": "bge-reranker-v2-m3", "rank_fields": ["text"], "top_n": 3}
    answer = index.search(
        namespace="__default__", top_k=25, inputs={"text": "black otter n8"}, fields=["text"], rerank=rerank
    )
    hits = answer.result.hits
    assert (hits[0].id_, len(hits), answer.usage.rerank_units) == ("p8", 3, 1)
    texts = [hit.fields["text"] for hit in hits]
    assert [hit.score_ for hit in hits] == pytest.approx(scores_of("black otter n8", texts))
    assert [each.name for page in index.list_namespaces() for each in page.namespaces] == ["__default__"]
    assert index.describe_namespace(name="__default__").record_count == 60


@call("pinecone", "`AsyncPinecone`, `AsyncIndex`", "`describe_index`, `query`, `fetch`, `search`")
async def pinecone_async_index(url: str, key: str) -> None:
    async with pinecone.AsyncPinecone(api_key=key, host=url) as client:
        model = await client.indexes.describe("articles")
        async with await client.index(host=model.host) as index:
            assert (await index.query(id="p8", top_k=1)).matches[0].id == "p8"
            assert list((await index.fetch(ids=["p3"])).vectors) == ["p3"]
            answer = await index.search(namespace="__default__", top_k=3, inputs={"text": "black otter n8"})
            assert answer.result.hits[0].id_ == "p8"


@call("pinecone", "`Pinecone`", "`create_index` of another name")
def pinecone_create(url: str, key: str) -> str:
    client = pinecone.Pinecone(api_key=key, host=url)
    with pytest.raises(pinecone.ForbiddenError) as refused:
        client.create_index(
            name="movies", dimension=64, metric="cosine", spec=pinecone.ServerlessSpec(cloud="aws", region="us-east-1")
        )
    return refused.value.message


@call("pinecone", "`Index`", "`upsert` with a key that may read")
def pinecone_upsert(url: str, key: str) -> str:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    with pytest.raises(pinecone.ForbiddenError) as refused:
        index.upsert(vectors=[{"id": "a", "values": [0.1] * 64}])
    return refused.value.message


@call("pinecone", "`Index`", "`query` in a namespace that is not there")
def pinecone_namespace(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    assert not index.query(id="p8", top_k=1, namespace="movies").matches


@call("pinecone", "`Index`", "`query` with a filter on a field that is not there")
def pinecone_filter(url: str, key: str) -> str:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    with pytest.raises(pinecone.ApiError) as refused:
        index.query(id="p8", top_k=1, filter={"genre": {"$eq": "drama"}})
    assert refused.value.status_code == 400
    return refused.value.message


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask until what was written is seen, as Pinecone's own examples do."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "what was written is not seen"


def reconciled(index: Any, written: Any) -> None:
    """Wait until searches have seen a write, by the positions that the SDK reads from both answers."""
    committed = written.response_info.lsn_committed
    wait_until(lambda: index.query(vector=[1.0] * 64, top_k=1).response_info.is_reconciled(committed))


@call("pinecone", "`Index`", "`update`, `delete` by ids, by a filter, and all", writes=True)
def pinecone_changes(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    made: list[Any] = [{"id": f"u{n}", "values": [1.0, n] * 32, "metadata": {"number": n}} for n in range(9)]
    index.upsert(vectors=made, batch_size=4)
    reconciled(index, index.update(id="u3", values=[5.0] * 64, set_metadata={"number": 33}))
    changed = index.fetch(ids=["u3"]).vectors["u3"]
    assert (changed.metadata, changed.values) == ({"number": 33}, pytest.approx([0.125] * 64))

    def ids() -> list[str]:
        return [item.id for page in index.list(prefix="u") for item in page.vectors]

    index.delete(ids=["u0", "u1", "none"])
    wait_until(lambda: ids() == [f"u{n}" for n in range(2, 9)])
    index.delete(filter={"number": {"$gte": 6}})
    wait_until(lambda: ids() == ["u2", "u4", "u5"])
    index.delete(delete_all=True)
    wait_until(lambda: index.describe_index_stats().total_vector_count == 0)


@call("pinecone", "`Index`", "`upsert_records`, and `search` with `rerank`", writes=True)
def pinecone_upsert_records(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    records = [{"_id": f"r{place}", "text": text, "place": place} for place, text in enumerate(DOCUMENTS)]
    reconciled(index, index.upsert_records(namespace="__default__", records=records))
    rerank = {"model": RERANKER, "rank_fields": ["text"], "top_n": 2}
    answer = index.search(
        namespace="__default__", top_k=4, inputs={"text": QUERY}, filter={"place": {"$gte": 0}}, rerank=rerank
    )
    hits = answer.result.hits
    assert [(hit.id_, hit.fields["place"]) for hit in hits] == [("r2", 2), ("r3", 3)]


@call("pinecone", "`AsyncIndex`", "`upsert`, `update`, `delete`", writes=True)
async def pinecone_async_writes(url: str, key: str) -> None:
    async with pinecone.AsyncPinecone(api_key=key, host=url) as client, await client.index(name="articles") as index:
        written = await index.upsert(vectors=[("async", [2.0] * 64)])
        assert written.upserted_count == 1
        await index.update(id="async", set_metadata={"year": 2020})

        async def years() -> list[Any]:
            fetched = (await index.fetch(ids=["async"])).vectors
            return [vector.metadata for vector in fetched.values()]

        async with asyncio.timeout(PATIENCE_S):
            while await years() != [{"year": 2020}]:
                pass
            await index.delete(ids=["async"])
            while await years():
                pass


@call("pinecone", "`Index`", "`upsert` of vectors with another dimension", writes=True)
def pinecone_upsert_dimension(url: str, key: str) -> str:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    with pytest.raises(pinecone.ApiError) as refused:
        index.upsert(vectors=[("a", [0.1] * 1024)])
    assert refused.value.status_code == 400
    return refused.value.message


@call("pinecone", "`Index`", "`upsert`, `query`, `fetch`, `list_namespaces`, `delete` in a namespace", writes=True)
def pinecone_upsert_namespace(url: str, key: str) -> None:
    index = pinecone.Pinecone(api_key=key, host=url).Index("articles")
    index.upsert(vectors=[("own", [0.1] * 64)], namespace="movies")
    wait(lambda: index.fetch(ids=["own"], namespace="movies").vectors)
    answer = index.query(vector=[0.1] * 64, top_k=9, namespace="movies")
    assert ([match.id for match in answer.matches], answer.namespace) == (["own"], "movies")
    assert not index.fetch(ids=["own"]).vectors
    sizes = {each.name: each.record_count for page in index.list_namespaces() for each in page.namespaces}
    assert sizes["movies"] == index.describe_namespace(name="movies").record_count == 1
    assert index.describe_index_stats().namespaces["movies"].vector_count == 1
    index.delete(delete_all=True, namespace="movies")
    wait(lambda: not index.fetch(ids=["own"], namespace="movies").vectors)


# --- huggingface_hub --------------------------------------------------------------------------------------------------


@call("huggingface_hub", '`InferenceClient(model="URL/embed")`', "`feature_extraction`")
def hub_embed(url: str, key: str) -> None:
    client = InferenceClient(model=f"{url}/embed", token=key)
    np.testing.assert_array_equal(client.feature_extraction(DOCUMENTS), vectors_of(DOCUMENTS, "passage"))
    queries = client.feature_extraction(QUERY, prompt_name="query", normalize=True, truncate=True)
    np.testing.assert_array_equal(queries, vectors_of([QUERY], "query"))


@call("huggingface_hub", '`AsyncInferenceClient(model="URL/embed")`', "`feature_extraction`")
async def hub_async(url: str, key: str) -> None:
    made = await AsyncInferenceClient(model=f"{url}/embed", token=key).feature_extraction(DOCUMENTS)
    np.testing.assert_array_equal(made, vectors_of(DOCUMENTS, "passage"))


@call("huggingface_hub", '`InferenceClient(model="URL/embed")`', "`feature_extraction` with `normalize=False`")
def hub_normalize(url: str, key: str) -> str:
    with pytest.raises(HfHubHTTPError) as refused:
        InferenceClient(model=f"{url}/embed", token=key).feature_extraction(DOCUMENTS, normalize=False)
    return str(refused.value).splitlines()[-1]


@call("huggingface_hub", '`InferenceClient(model="URL/embed")`', "`feature_extraction` with a wrong key")
def hub_key(url: str, key: str) -> str:
    with pytest.raises(HfHubHTTPError) as refused:
        InferenceClient(model=f"{url}/embed", token="wrong").feature_extraction(DOCUMENTS)
    return str(refused.value).splitlines()[-1]


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("vendors")
    (folder / "keys.txt").write_text(keys.line(KEY, "clients") + "\n")
    options = {"reranker": RERANKER, "model_alias": ALIASES, "api_keys_file": str(folder / "keys.txt")}
    with serving_locally(publish_articles(folder), **options) as url:
        yield url


@pytest.fixture(scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose index began empty."""
    folder = tmp_path_factory.mktemp("writable")
    create_index(CreateSettings(index=str(folder / "articles"), encoder=ENCODER))
    (folder / "keys.txt").write_text(keys.line(WRITE_KEY, "writers", "write") + "\n")
    options = {"reranker": RERANKER, "model_alias": ALIASES, "api_keys_file": str(folder / "keys.txt")}
    with serving_locally(folder / "articles", **options) as url:
        yield url


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    """Collects the rows that calls gave; written to the page where that is asked for."""
    rows: list[str] = []
    yield rows
    if WRITE:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        head = "| package | version | client | call | what comes of it |\n| --- | --- | --- | --- | --- |"
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join([head, *rows]) + f"\n{END}{rest.partition(END)[2]}", "utf-8")


def shown(row: str) -> list[str]:
    """The cells of a row but for the version."""
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    return [cells[0].strip("| "), *cells[2:]]


def written() -> list[list[str]]:
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    return [shown(row) for row in table.strip().splitlines()[2:]]


@pytest.mark.parametrize("each", CALLS, ids=lambda each: re.sub(r"[^\w.]+", "-", f"{each.client} {each.call}"))
def test_what_comes_of_a_call_is_what_the_page_says(each: Call, url: str, writable: str, rows: list[str]) -> None:
    outcome = (each.run(writable, WRITE_KEY) if each.writes else each.run(url, KEY)) or WORKS
    assert KEY not in outcome
    assert WRITE_KEY not in outcome
    row = each.row(outcome)
    rows.append(row)
    assert WRITE or shown(row) in written()


def test_the_page_shows_no_other_calls() -> None:
    names = [[each.package, each.client, each.call] for each in CALLS]
    assert WRITE or [row[:3] for row in written()] == names


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/rerank"),
        ("POST", "/v2/rerank"),
        ("POST", "/rerank"),
        ("POST", "/embed"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x"),
        ("GET", "/models"),
        ("GET", "/models/x"),
        ("GET", "/info"),
        ("GET", "/health"),
        ("POST", "/retrieval"),
        ("GET", "/indexes"),
        ("POST", "/indexes"),
        ("DELETE", "/indexes/articles"),
        ("POST", "/i/articles/query"),
        ("POST", "/i/articles/describe_index_stats"),
        ("GET", "/i/articles/vectors/fetch"),
        ("GET", "/i/articles/vectors/list"),
        ("GET", "/i/articles/namespaces"),
        ("DELETE", "/i/articles/namespaces/x"),
        ("POST", "/i/articles/vectors/upsert"),
        ("POST", "/i/articles/vectors/update"),
        ("POST", "/i/articles/vectors/delete"),
        ("POST", "/i/articles/records/namespaces/x/upsert"),
        ("POST", "/i/articles/records/namespaces/x/search"),
    ],
)
@pytest.mark.parametrize("shape", ["none", "bearer", "raw", "api-key", "x-api-key", "basic"])
def test_every_path_wants_a_key_in_any_of_its_shapes(
    method: str, path: str, shape: str, url: str, plain: httpx.Client
) -> None:
    headers = {
        "none": {},
        "bearer": {"authorization": f"Bearer {KEY}"},
        "raw": {"authorization": KEY},
        "api-key": {"api-key": KEY},
        "x-api-key": {"x-api-key": KEY},
        "basic": {"authorization": f"Basic {KEY}"},
    }[shape]
    response = plain.request(method, url + path, json={} if method == "POST" else None, headers=headers)
    refused = shape in ("none", "basic")
    assert (response.status_code == 401) == refused, response.text
    assert response.headers["x-request-id"]
    assert ("www-authenticate" in response.headers) == refused
    assert KEY not in response.text
