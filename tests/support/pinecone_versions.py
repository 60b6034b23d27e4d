"""Calls of one version of Pinecone's SDK, as its users write them; run by an interpreter that has this version.

    python pinecone_versions.py URL HOST:PORT KEY http|grpc

prints what came of each call, in JSON: a list of [client, call, outcome]. It imports nothing of this repository, which
that interpreter has not, and runs over an index that begins empty, with 64 dimensions.
"""

import importlib.metadata
import json
import os
import sys
import time
import warnings

PATIENCE_S = 60.0
DOCUMENTS = ["a red fish", "a green heron", "the black otter sleeps", "an otter"]
QUESTION = "black otter"
MAJOR = int(importlib.metadata.version("pinecone").partition(".")[0])
WORKS = "works"
NAMESPACE_CALLS = "`list_namespaces`, `describe_namespace`, `delete_namespace`"


def message_of(error):
    """What a person reads of an error."""
    cause = error.__cause__ or error.__context__
    if hasattr(cause, "details"):  # of grpcio
        return cause.details()
    body = getattr(error, "body", None)
    if isinstance(body, str | bytes):
        return json.loads(body)["message"]
    return getattr(error, "message", None) or f"{type(error).__name__}: {error}"


def wait_until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "what was written is not seen"


class Course:
    """The calls, in an order in which each finds what it needs; `outcomes` has what came of them."""

    def __init__(self, url, address, key, transport):
        import pinecone

        self.url, self.address, self.key, self.grpc = url, address, key, transport == "grpc"
        os.environ["PINECONE_CONTROLLER_HOST"] = url
        self.pinecone = pinecone
        self.outcomes = []
        self.vectors = {}

    def client(self, key):
        if self.grpc and MAJOR < 10:
            from pinecone.grpc import PineconeGRPC

            return PineconeGRPC(api_key=key)
        return self.pinecone.Pinecone(api_key=key)

    def index(self, key):
        if not self.grpc:
            return self.client(key).Index("articles")
        if MAJOR >= 10:
            os.environ["PINECONE_GRPC_SCHEME"] = "http"
            return self.client(key).index(host=f"http://{self.address}", grpc=True)
        from pinecone.grpc import GRPCClientConfig

        config = GRPCClientConfig(secure=False)
        return self.client(key).Index("articles", grpc_config=config, _endpoint_override=self.address)

    def note(self, client, call, run):
        """Run a call, and note that it works, or what a person reads who makes it."""
        try:
            run()
            outcome = WORKS
        except Exception as error:
            if isinstance(error, AssertionError):
                raise
            outcome = message_of(error)
        self.outcomes.append([client, call, outcome])

    def control(self):
        client = self.client(self.key)

        def indexes():
            assert list(client.list_indexes().names()) == ["articles"]
            model = client.describe_index("articles")
            assert (model.host.removeprefix("https://"), model.dimension) == (f"{self.url}/i/articles", 64)
            assert model.status["ready"]

        def inference():
            made = client.inference.embed(
                model="multilingual-e5-large", inputs=DOCUMENTS, parameters={"input_type": "passage", "truncate": "END"}
            )
            assert [len(each["values"]) for each in made.data] == [64] * 4
            self.vectors = {f"d{place}": list(each["values"]) for place, each in enumerate(made.data)}
            documents = [{"id": f"d{place}", "text": text} for place, text in enumerate(DOCUMENTS)]
            ranked = client.inference.rerank(
                model="bge-reranker-v2-m3", query=QUESTION, documents=documents, rank_fields=["text"], top_n=2
            )
            assert [each["index"] for each in ranked.data] == [2, 3]

        self.note("`Pinecone`", "`list_indexes`, `describe_index`", indexes)
        self.note("`Pinecone`", "`inference.embed`, `inference.rerank`", inference)

    def data(self):
        index, name = self.index(self.key), type(self.index(self.key)).__name__
        vectors = self.vectors or {f"d{place}": [1.0, float(place + 1)] * 32 for place in range(4)}
        own = f"`{name}`"

        def write():
            made = [
                {"id": id_, "values": values, "metadata": {"text": text, "year": 2020 + place, "of": ["a", "b"]}}
                for place, ((id_, values), text) in enumerate(zip(vectors.items(), DOCUMENTS, strict=True))
            ]
            assert index.upsert(vectors=made, namespace="", batch_size=3).upserted_count == 4
            wait_until(lambda: index.describe_index_stats().total_vector_count == 4)

        def read():
            answer = index.query(
                vector=vectors["d2"],
                top_k=25,
                include_metadata=True,
                include_values=True,
                filter={"year": {"$gte": 2021}},
            )
            assert sorted(match.id for match in answer.matches) == ["d1", "d2", "d3"]
            best = answer.matches[0]
            assert (best.id, best.metadata["text"], best.metadata["year"]) == ("d2", DOCUMENTS[2], 2022)
            assert best.metadata["of"] == ["a", "b"]
            assert abs(best.score - 1) < 1e-5
            assert len(best.values) == 64
            assert index.query(id="d1", top_k=1).matches[0].id == "d1"
            assert index.query(id="d1", top_k=1, namespace="").matches[0].id == "d1"

        def fetch():
            fetched = index.fetch(ids=["d3", "none"]).vectors
            assert list(fetched) == ["d3"]
            assert fetched["d3"].metadata["year"] == 2023
            assert sorted(self.listed(index)) == ["d0", "d1", "d2", "d3"]
            stats = index.describe_index_stats()
            assert (stats.dimension, stats.total_vector_count) == (64, 4)
            assert stats.namespaces[""].vector_count == 4

        def change():
            index.update(id="d1", set_metadata={"year": 1999})
            wait_until(lambda: index.fetch(ids=["d1"]).vectors["d1"].metadata["year"] == 1999)
            index.delete(ids=["d0", "none"])
            wait_until(lambda: sorted(self.listed(index)) == ["d1", "d2", "d3"])
            index.delete(filter={"year": {"$lt": 2000}})
            wait_until(lambda: sorted(self.listed(index)) == ["d2", "d3"])
            index.delete(delete_all=True)
            wait_until(lambda: index.describe_index_stats().total_vector_count == 0)

        self.note(own, "`upsert` in batches", write)
        self.note(own, "`query` by vector and by id, with `filter`, `include_metadata`, `include_values`", read)
        self.note(own, "`fetch`, `list`, `describe_index_stats`", fetch)
        if MAJOR >= 8:
            self.note(own, "`fetch_by_metadata`", lambda: self.fetch_by_metadata(index))
        if MAJOR >= 10:
            self.note(own, NAMESPACE_CALLS, lambda: self.namespaces(index, vectors["d0"]))
        self.note(own, "`update`, `delete` by ids, by a filter, and all", change)
        wrong = [("a", [0.1] * 8)]
        self.note(own, "`upsert` of vectors with another dimension", lambda: index.upsert(vectors=wrong))
        self.note(own, "`query` with a wrong key", lambda: self.index("wrong").query(id="d1", top_k=1))

    @staticmethod
    def fetch_by_metadata(index):
        found, token = {}, None
        while True:
            page = index.fetch_by_metadata(filter={"year": {"$gte": 2021}}, limit=2, pagination_token=token)
            found |= page.vectors
            token = page.pagination.next if page.pagination else None
            if token is None:
                break
            assert len(page.vectors) == 2
        assert sorted(found) == ["d1", "d2", "d3"]
        assert (found["d2"].metadata["text"], len(found["d2"].values)) == (DOCUMENTS[2], 64)

    @staticmethod
    def namespaces(index, vector):
        def counted():
            return {each.name: each.record_count for page in index.list_namespaces() for each in page.namespaces}

        index.upsert(vectors=[{"id": "f0", "values": vector}], namespace="films")
        wait_until(lambda: counted() == {"__default__": 4, "films": 1})
        described = index.describe_namespace(name="films")
        assert (described.name, described.record_count) == ("films", 1)
        index.delete_namespace(name="films")
        wait_until(lambda: counted() == {"__default__": 4})

    @staticmethod
    def listed(index):
        return [getattr(item, "id", item) for page in index.list(prefix="d") for item in getattr(page, "vectors", page)]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    course = Course(*sys.argv[1:])
    if not course.grpc:
        course.control()
    course.data()
    print(json.dumps(course.outcomes))
