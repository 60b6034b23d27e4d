"""Engines of vectors behind FastAPI, as their users serve them. Imports nothing of Shoal.

Run by a Python that has them: vector_servers.py qdrant-edge|lancedb|chromadb FOLDER build|serve [PORT]

POST /vector {"vector": base64 of float32, "top_n", "effort"} -> {"results": [{"id", "score", "text"}]}. chromadb is
built here, and has a server of its own.
"""

import asyncio
import base64
import importlib
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 2000
"""Passages that are added at once."""
THREADS = 2
"""That search at once in an engine that blocks."""


def passages(folder: Path) -> list[tuple[list[str], Any]]:
    """The ids, which are the texts as well, and vectors of all passages, block by block."""
    vectors = np.load(folder / "vectors.npy")
    return [
        ([f"p{number}" for number in range(start, min(start + BLOCK, len(vectors)))], vectors[start : start + BLOCK])
        for start in range(0, len(vectors), BLOCK)
    ]


class QdrantEdge:
    """The engine of Qdrant's server, in this process."""

    def __init__(self, folder: Path) -> None:
        self._module = importlib.import_module("qdrant_edge")
        self._folder = folder / "qdrant-edge"
        self._threads = ThreadPoolExecutor(THREADS)
        self._shard: Any = None

    def build(self, folder: Path) -> None:
        """Index all passages in one segment."""
        q = self._module
        self._folder.mkdir()
        config = q.EdgeConfig(
            vectors={
                "dense": q.EdgeVectorParams(size=np.load(folder / "vectors.npy").shape[1], distance=q.Distance.Dot)
            },
            hnsw_config=q.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=2),
            optimizers=q.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=10_000_000, indexing_threshold=10_000
            ),
        )
        shard = q.EdgeShard.create(str(self._folder), config)
        number = 0
        for ids, vectors in passages(folder):
            points = [
                q.Point(number + place, {"dense": vector}, {"id": id_, "text": id_})
                for place, (id_, vector) in enumerate(zip(ids, vectors.tolist(), strict=True))
            ]
            number += len(points)
            shard.update(q.UpdateOperation.upsert_points(points))
        while shard.optimize():
            pass
        shard.flush()
        shard.close()

    async def open(self) -> None:
        """Load what was built."""
        self._shard = self._module.EdgeShard.load(str(self._folder))

    async def nearest(self, vector: Any, count: int, effort: int | None) -> list[tuple[str, float, str]]:
        """Return the nearest passages. effort: `hnsw_ef`."""
        q = self._module
        request = q.QueryRequest(
            limit=count,
            query=q.Query.Nearest(vector.tolist(), using="dense"),
            params=q.SearchParams(hnsw_ef=effort) if effort else None,
            with_payload=True,
        )
        points = await asyncio.get_running_loop().run_in_executor(self._threads, self._shard.query, request)
        return [(point.payload["id"], point.score, point.payload["text"]) for point in points]


class LanceDB:
    """A table of LanceDB in this process."""

    def __init__(self, folder: Path) -> None:
        self._module = importlib.import_module("lancedb")
        self._folder = str(folder / "lance")
        self._table: Any = None

    def build(self, folder: Path) -> None:
        """Add all passages, and index them in as many lists as is usual."""
        arrow = importlib.import_module("pyarrow")

        def block(ids: list[str], vectors: Any) -> Any:
            column = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), vectors.shape[1])
            return arrow.table({"id": ids, "text": ids, "vector": column})

        first, *others = [block(*each) for each in passages(folder)]
        table = self._module.connect(self._folder).create_table("passages", first)
        for each in others:
            table.add(each)
        count = table.count_rows()
        if count >= 10_000:
            table.create_index(metric="dot", index_type="IVF_FLAT", num_partitions=min(4096, int(4 * count**0.5)))

    async def open(self) -> None:
        """Open the table, and read its index."""
        self._table = await (await self._module.connect_async(self._folder)).open_table("passages")
        for index in await self._table.list_indices():
            await self._table.prewarm_index(index.name)

    async def nearest(self, vector: Any, count: int, effort: int | None) -> list[tuple[str, float, str]]:
        """Return the nearest passages. effort: lists that are looked at."""
        query = self._table.query().nearest_to(vector).distance_type("dot").limit(count)
        query = query.select(["id", "text", "_distance"])
        rows = await (query.nprobes(effort) if effort else query).to_arrow()
        columns = (rows[name].to_pylist() for name in ("id", "_distance", "text"))
        return [(id_, 1 - distance, text) for id_, distance, text in zip(*columns, strict=True)]


class ChromaDB:
    """A collection of chromadb, whose own server serves it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def build(self, folder: Path) -> None:
        """Add all passages; the id of the collection is kept beside it."""
        chromadb = importlib.import_module("chromadb")
        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(folder / "chroma"), settings)
        collection = client.create_collection("passages", metadata={"hnsw:space": "ip"}, embedding_function=None)
        for ids, vectors in passages(folder):
            collection.add(ids=ids, documents=ids, embeddings=vectors)
        (folder / "chroma.collection").write_text(str(collection.id))


ENGINES: dict[str, Any] = {"qdrant-edge": QdrantEdge, "lancedb": LanceDB, "chromadb": ChromaDB}
"""By the names that the benchmark has for them."""


def application(engine: Any) -> Any:
    """The application around an engine."""
    fastapi = importlib.import_module("fastapi")
    responses = importlib.import_module("fastapi.responses")

    @asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        await engine.open()
        yield

    api = fastapi.FastAPI(lifespan=life)

    async def vector(request: Any) -> Any:
        body = await request.json()
        asked = np.frombuffer(base64.b64decode(body["vector"]), dtype=np.float32)
        nearest = await engine.nearest(asked, body["top_n"], body.get("effort"))
        results = [{"id": id_, "score": score, "text": text} for id_, score, text in nearest]
        return responses.JSONResponse({"results": results})

    vector.__annotations__["request"] = fastapi.Request  # which FastAPI looks for
    api.post("/vector", response_model=None)(vector)
    api.get("/healthz")(lambda: {"ready": True})
    return api


def main(name: str, folder: Path, action: str, port: str = "0") -> None:
    """Build, or serve until the end."""
    engine = ENGINES[name](folder)
    if action == "build":
        engine.build(folder)
        return
    uvicorn = importlib.import_module("uvicorn")
    uvicorn.run(application(engine), host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
