"""What somebody careful would write instead of Shoal: Qdrant's engine behind FastAPI, a batcher, bfloat16.

Run by uvicorn as `careful_server:api` with CORPUS (a BEIR corpus file), ENCODER, RERANKER (paths or names) and THREADS
in the environment. Imports nothing of Shoal; needs fastapi, sentence-transformers and qdrant-edge-py.

POST /search {"query", "top_k", "top_n", "rerank"} -> {"results": [{"id", "score", "text"}]}
"""

import asyncio
import gzip
import importlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sentence_transformers import CrossEncoder, SentenceTransformer

MOST = 32
"""Queries that are encoded at once."""
HALF = {"model_kwargs": {"dtype": torch.bfloat16}}


class Search(BaseModel):
    """What is asked for."""

    query: str
    top_k: int = 25
    top_n: int = 10
    rerank: bool = False


class Batcher:
    """Gives all that waits to one call, in a thread of its own. work: texts to one result for each."""

    def __init__(self, work: Callable[[list[str]], Any]) -> None:
        self._work = work
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[str, asyncio.Future[Any]]] = []
        self._drain: asyncio.Task[None] | None = None

    async def __call__(self, text: str) -> Any:
        """Return the result for one text."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((text, done))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._work_off())
        return await done

    async def _work_off(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            texts = [text for text, _ in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, texts)
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)


class Store:
    """The passages and their vectors in Qdrant's engine, which compares all of so few."""

    def __init__(self, passages: list[tuple[str, str]], vectors: Any) -> None:
        self._engine = importlib.import_module("qdrant_edge")
        q = self._engine
        config = q.EdgeConfig(vectors={"dense": q.EdgeVectorParams(size=vectors.shape[1], distance=q.Distance.Dot)})
        self._shard = q.EdgeShard.create(tempfile.mkdtemp(prefix="careful-"), config)
        for start in range(0, len(passages), 1000):
            block = enumerate(passages[start : start + 1000], start)
            points = [q.Point(n, {"dense": vectors[n].tolist()}, {"id": i, "text": text}) for n, (i, text) in block]
            self._shard.update(q.UpdateOperation.upsert_points(points))
        self._threads = ThreadPoolExecutor(int(os.environ["THREADS"]))

    async def nearest(self, vector: Any, count: int) -> list[dict[str, Any]]:
        """Return the nearest passages as results."""
        q = self._engine
        query = q.Query.Nearest(vector.tolist(), using="dense")
        request = q.QueryRequest(limit=count, query=query, with_payload=True)
        points = await asyncio.get_running_loop().run_in_executor(self._threads, self._shard.query, request)
        return [{"id": p.payload["id"], "score": p.score, "text": p.payload["text"]} for p in points]


def corpus() -> list[tuple[str, str]]:
    """Id and text of each passage, its title in front."""
    path = Path(os.environ["CORPUS"])
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["_id"], f"{row.get('title', '')} {row['text']}".strip()) for row in rows]


@asynccontextmanager
async def opened(api: FastAPI) -> AsyncIterator[None]:
    """Load the models, and encode the corpus."""
    torch.set_num_threads(int(os.environ["THREADS"]))
    encoder = SentenceTransformer(os.environ["ENCODER"], device="cpu", **HALF)
    api.state.reranker = CrossEncoder(os.environ["RERANKER"], device="cpu", **HALF)
    passages = corpus()

    def encode(texts: list[str]) -> Any:
        return encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False).astype("float32")

    api.state.store = Store(passages, encode([text for _, text in passages]))
    api.state.encode = Batcher(encode)
    api.state.turn = ThreadPoolExecutor(1)
    yield


api = FastAPI(lifespan=opened)


@api.post("/search")
async def search(asked: Search) -> JSONResponse:
    """Answer one query."""
    state = api.state
    results = await state.store.nearest(await state.encode(asked.query), asked.top_k)
    if asked.rerank:
        pairs = [(asked.query, result["text"]) for result in results]
        scores = await asyncio.get_running_loop().run_in_executor(state.turn, state.reranker.predict, pairs)
        for result, score in zip(results, scores.tolist(), strict=True):
            result["score"] = score
        results.sort(key=lambda result: -result["score"])
    return JSONResponse({"results": results[: asked.top_n]})
