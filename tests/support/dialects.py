"""The whole HTTP application over a real index in this process, for tests of dialects: no sockets, no Ray."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from serve.local import local_api
from shoal.encoders import load_encoder
from shoal.engine.engine import LocalEngine
from shoal.records import FloatArray, InputType
from shoal.settings import EncoderSettings, LexicalSettings, RunSettings, ServeSettings
from tests.support.indexes import passages, publish

ENCODER, RERANKER = "hashing:64", "overlap"
ALIASES = ["rerank-v3.5=overlap", "bge-reranker-v2-m3=overlap", "multilingual-e5-large=hashing:64"]
QUERY = "black otter"
DOCUMENTS = ["a red fish", "a green heron", "the black otter sleeps", "an otter"]


def publish_articles(folder: Path) -> Path:
    """Publish an index of 60 passages in 2 shards; returns its root, whose name is `articles`."""
    publish(folder / "articles", "v1", passages(60), lexical=LexicalSettings())
    return folder / "articles"


@asynccontextmanager
async def client_of(root: Path, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an index root within the event loop of the test."""
    settings = RunSettings(index=str(root), local=True, **{"reranker": RERANKER, "model_alias": ALIASES} | options)
    engine = LocalEngine(settings.part(ServeSettings))
    await engine.open()
    transport = httpx.ASGITransport(local_api(engine, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    engine.close()


def vectors_of(texts: list[str], input_type: InputType) -> FloatArray:
    """What the encoder of the index makes of texts, asked directly."""
    encoder = load_encoder(EncoderSettings(encoder=ENCODER))
    encode = encoder.encode_queries if input_type == "query" else encoder.encode_passages
    return np.asarray(encode(texts))


def scores_of(query: str, documents: list[str]) -> list[float]:
    """What the reranker of the server makes of documents, asked directly."""
    from shoal.rerankers.overlap import OverlapReranker

    return [float(score) for score in OverlapReranker().score(query, documents)]
