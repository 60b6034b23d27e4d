"""What holds wherever an index is searched: in this process, by `shoal serve --local`, by a server on Ray.

class TestMine(EngineContract):
    @pytest.fixture(scope="class")
    def engine(self, engine_root: Path) -> Iterator[Asker]:
        with shoal.open(engine_root, **SETTINGS) as index:
            yield index

Long because the calls of one contract stand together.
"""

import base64
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.client.answers import IndexDescription, SearchResponse
from shoal.encoders import load_encoder
from shoal.errors import Conflict, InvalidArgument, NotFound, ShoalError
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.indexing.empty import create_index
from shoal.modes import Mode
from shoal.rerankers import load_reranker
from shoal.settings import CreateSettings, EncoderSettings, LateSettings, LexicalSettings, RerankerSettings
from tests.support.indexes import passages, publish
from tests.support.shape_contract import ShapeContract

COUNT = 60
SETTINGS: dict[str, Any] = {"reranker": "overlap", "watch_s": 0.1, "max_top_k": 50, "max_queries": 4}
"""How every engine is opened."""
QUERIES = ["the black otter n8", "green snail", "number n33", "white frog n59"]
PATIENCE_S = 60.0

Asker = shoal.Index | shoal.Client


def publish_versions(root: Path) -> None:
    """Publish one without passages, v1, which is current, v2, and v3 with a file that is broken."""
    create_index(
        CreateSettings(index=str(root), encoder="hashing:64", shards=2, metadata_types=["number:integer"], threads=1)
    )
    for version in ("v1", "v2", "v3"):
        content = passages(COUNT, marker=f"of-{version}")
        late = LateSettings(late_interaction="stored", late_dims=32, late_bits=8)
        publish(root, version, content, activate=version == "v1", lexical=LexicalSettings(), late=late, writable=True)
    next((root / "versions" / "v3").rglob("passages.arrow")).write_bytes(b"broken")


def comparable(response: SearchResponse) -> dict[str, Any]:
    """What two engines must agree in: all but the request's id, and how long it took."""
    fields = response.model_dump(mode="json", exclude={"id", "timings_ms", "explain"})
    for result in fields["results"]:
        for name in ("score", "retrieval_score", "rerank_score"):
            result[name] = None if result[name] is None else round(result[name], 5)
    return fields


class EngineContract(ShapeContract):
    """The calls of `shoal.Client`, whoever answers them."""

    @pytest.fixture(scope="class")
    def engine_root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("contract") / "index"
        publish_versions(root)
        return root

    @pytest.fixture
    def asker(self, engine: Asker) -> Asker:
        """The engine, with v1 being served."""
        if engine.describe().version != "v1":
            engine.activate("v1")
        return engine

    @pytest.fixture
    def reference(self, engine_root: Path, asker: Asker) -> Iterator[shoal.Index]:
        """Another engine, in this process, that has v1 too."""
        with shoal.open(engine_root, **SETTINGS) as index:
            yield index

    def test_why_nothing_was_found_is_told(self, asker: Asker) -> None:
        counted = "holds a word of the query; those that count are, as they are indexed: coral"
        nothing = {
            "the corals' unheard bleaching corals": f"no passage {counted}, unheard, bleach",
            "the ?!": "no word of the query counts: it holds stop words and signs alone",
        }
        for query, why in nothing.items():
            answer = asker.search(query, mode="lexical")
            assert (answer.results, answer.warnings) == ([], [why])
        for mode in ("dense", "lexical", "hybrid"):
            answer = asker.search("otter", mode=mode, filter={"number": -1})
            assert (answer.results, answer.warnings) == ([], ["no passage fulfils the filter"])
        answer = asker.search("coral", mode="lexical", filter={"number": 1})
        assert answer.warnings == [f"no passage that fulfils the filter {counted}"]
        assert asker.search("otter coral", mode="lexical").warnings == []

    def test_a_query_longer_than_the_encoder_reads_is_told_so(self, asker: Asker) -> None:
        whole, cut = asker.search(["red fish", "red fish " * 300])
        assert whole.warnings == []
        assert cut.warnings == [
            "the query has 600 tokens, and the encoder reads 512 of them; the rest was not searched for by vectors"
        ]
        assert cut.results

    def test_passages_are_fetched_by_their_ids(self, asker: Asker) -> None:
        content = {passage.id: passage for passage in passages(COUNT, marker="of-v1")}
        fetched = asker.fetch(["p7", "nothing", "p0", "p7"])
        assert [passage.id for passage in fetched.passages] == ["p7", "p0"]
        assert [passage.text for passage in fetched.passages] == [content["p7"].text, content["p0"].text]
        assert [passage.metadata for passage in fetched.passages] == [{"number": 7}, {"number": 0}]
        assert (fetched.index_version, fetched.missing, fetched.unknown) == ("v1", ["nothing"], [])
        assert (fetched.coverage.fraction, fetched.degraded) == (1.0, None)
        (alone,) = asker.fetch(["p7"], include=["vector"]).passages
        assert (alone.text, alone.metadata) == (None, None)
        assert alone.vector is not None
        encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
        np.testing.assert_allclose(alone.vector, encoder.encode_passages([content["p7"].content])[0], atol=1e-5)

    def test_ids_are_listed_a_page_at_a_time(self, asker: Asker) -> None:
        listed: list[str] = []
        page = asker.list(prefix="p", limit=17)
        while True:
            assert len(page.ids) <= 17
            listed += page.ids
            if page.next is None:
                break
            page = asker.list(prefix="p", limit=17, cursor=page.next)
        assert listed == sorted(passage.id for passage in passages(COUNT))
        assert asker.list().ids == listed
        assert asker.list(prefix="p3").ids == [id_ for id_ in listed if id_.startswith("p3")]
        assert asker.list(prefix="é&=?").ids == []

    def test_what_cannot_be_fetched_or_listed_is_refused_with_the_field_at_fault(self, asker: Asker) -> None:
        calls: list[tuple[str, Callable[[], object]]] = [
            ("ids", lambda: asker.fetch([])),
            ("ids", lambda: asker.fetch(["p1"] * 1001)),
            ("ids[1]", lambda: asker.fetch(["p1", ""])),
            ("include[0]", lambda: asker.fetch(["p1"], include=["nonsense"])),  # type: ignore[list-item]
            ("limit", lambda: asker.list(limit=0)),
            ("limit", lambda: asker.list(limit=1001)),
            ("cursor", lambda: asker.list(cursor="!")),
        ]
        for param, call in calls:
            with pytest.raises(InvalidArgument) as refused:
                call()
            assert refused.value.param == param

    def test_texts_get_the_vectors_that_the_index_compares(self, asker: Asker) -> None:
        encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
        texts = [*QUERIES, "red fish " * 300, "größe 日本 🐟"]
        embedded = asker.embed(texts, "passage")
        np.testing.assert_allclose(embedded.vectors, encoder.encode_passages(texts), atol=1e-6)
        assert (embedded.model, embedded.dim) == ("hashing:64", 64)
        assert [text.truncated for text in embedded.data] == [False] * 4 + [True, False]
        words = sum(len(query.split()) for query in QUERIES) + 512 + 3
        assert embedded.usage == {"texts": 6, "tokens": words}
        assert all(text.tokens is None for text in embedded.data)
        query = asker.embed([QUERIES[0]], "query", include=["vector", "tokens"], dimensions=16)
        (text,) = query.data
        assert (query.dim, len(text.vector or ())) == (16, 16)
        cut = encoder.encode_queries(QUERIES[:1])[0, :16]
        np.testing.assert_allclose(text.vector, cut / np.linalg.norm(cut), atol=1e-6)
        (both,) = encoder.encode_query_tokens(QUERIES[:1])  # type: ignore[attr-defined]
        np.testing.assert_allclose(text.tokens, both.tokens, atol=1e-6)
        (nothing,) = asker.embed(["fish"], "passage", include=[]).data
        assert (nothing.vector, nothing.tokens, nothing.truncated) == (None, None, False)

    def test_documents_are_ordered_by_the_reranker(self, asker: Asker) -> None:
        documents = ["the green snail", {"id": "o", "title": "black", "text": "an otter"}, "nothing of it", "an otter"]
        scores = load_reranker(RerankerSettings(reranker="overlap")).score(
            "black otter", ["the green snail", "black an otter", "nothing of it", "an otter"]
        )
        reranked = asker.rerank("black otter", documents)
        assert [result.index for result in reranked.results] == [1, 3, 0, 2]
        assert [result.score for result in reranked.results] == pytest.approx(scores[[1, 3, 0, 2]].tolist())
        # The scores of this reranker lie between 0 and 1 already.
        assert [result.relevance_score for result in reranked.results] == [result.score for result in reranked.results]
        assert [(result.id, result.document) for result in reranked.results] == [("o", None)] + [(None, None)] * 3
        assert (reranked.model, reranked.usage) == ("overlap", {"pairs": 4, "tokens": 4 * 2 + 3 + 3 + 3 + 2})
        best, second = asker.rerank("black otter", documents, top_n=2, return_documents=True, timeout_ms=30_000).results
        assert best.document == {"title": "black", "text": "an otter"}
        assert second.document == {"text": "an otter"}

    def test_what_cannot_be_embedded_or_reranked_is_refused_with_the_same_words(
        self, asker: Asker, reference: shoal.Index
    ) -> None:
        calls: list[tuple[str, Callable[[Asker], object]]] = [
            ("inputs", lambda asker: asker.embed([], "query")),
            ("inputs", lambda asker: asker.embed("fish", "query")),
            ("inputs", lambda asker: asker.embed(["fish"] * 1001, "passage")),
            ("inputs[1]", lambda asker: asker.embed(["fish", " "], "passage")),
            ("inputs[0]", lambda asker: asker.embed(["f" * 8193], "query")),
            ("input_type", lambda asker: asker.embed(["fish"], "document")),  # type: ignore[arg-type]
            ("dimensions", lambda asker: asker.embed(["fish"], "query", dimensions=65)),
            ("include[0]", lambda asker: asker.embed(["fish"], "query", include=["text"])),  # type: ignore[list-item]
            ("timeout_ms", lambda asker: asker.embed(["fish"], "query", timeout_ms=0)),
            ("query", lambda asker: asker.rerank(" ", ["fish"])),
            ("documents", lambda asker: asker.rerank("fish", [])),
            ("documents", lambda asker: asker.rerank("fish", "one string")),
            ("documents", lambda asker: asker.rerank("fish", ["fish"] * 51)),
            ("documents[1]", lambda asker: asker.rerank("fish", ["fish", ""])),
            ("documents[1]", lambda asker: asker.rerank("fish", ["fish", 7])),  # type: ignore[list-item]
            ("documents[0].text", lambda asker: asker.rerank("fish", [{"id": "a"}])),
            ("documents[0].txt", lambda asker: asker.rerank("fish", [{"text": "a", "txt": "b"}])),
            ("top_n", lambda asker: asker.rerank("fish", ["fish"], top_n=0)),
        ]
        for param, call in calls:
            errors = []
            for each in (asker, reference):
                with pytest.raises(InvalidArgument) as refused:
                    call(each)
                errors.append((refused.value.message, refused.value.param))
            assert errors[0] == errors[1]
            assert errors[0][1] == param, errors[0]

    def test_a_vector_finds_what_its_text_finds(self, asker: Asker) -> None:
        vectors = asker.embed(QUERIES, "query").vectors
        for query, vector in zip(QUERIES, vectors, strict=True):
            by_text = asker.search(query, mode="dense", rerank=False, top_k=20)
            packed = base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
            doubled = [2 * number for number in vector]
            for given in (vector, packed, doubled, np.array(vector, np.float32)):
                found = asker.search(vector=given, top_k=20)
                assert (found.mode, found.reranked, found.degraded) == ("dense", False, None)
                assert [result.id for result in found.results] == [result.id for result in by_text.results]
                np.testing.assert_allclose(
                    [result.score for result in found.results], [result.score for result in by_text.results], atol=1e-6
                )
        several = asker.search(vector=vectors, top_k=3)
        assert [answer.results[0].id for answer in several] == [
            asker.search(vector=vector, top_k=3).results[0].id for vector in vectors
        ]
        assert len({answer.id for answer in several}) == len(QUERIES)

    def test_a_query_beside_its_vector_is_answered_by_both(self, asker: Asker) -> None:
        vectors = asker.embed(QUERIES, "query").vectors
        both = asker.search(QUERIES, vector=vectors)
        assert [comparable(answer) for answer in both] == [comparable(answer) for answer in asker.search(QUERIES)]
        for options in ({"rerank": "late"}, {"mode": "dense"}, {"explain": True, "rerank": False}):
            by_both = comparable(asker.search(QUERIES[0], vector=vectors[0], **options))
            by_text = comparable(asker.search(QUERIES[0], **options))
            # A cursor goes on with the request that it came from.
            assert by_both | {"next": None} == by_text | {"next": None}
        other = asker.search("green snail", vector=vectors[0], explain=True, top_k=10)
        assert other.explain is not None
        assert other.explain["plan"]["searched_by"] == "vector"
        assert (other.mode, other.reranked) == ("hybrid", True)

    def test_passages_like_one_are_found_without_itself(self, asker: Asker) -> None:
        (stored,) = asker.fetch(["p8"], include=["vector"]).passages
        like = asker.search(id="p8", top_k=10)
        near = asker.search(vector=stored.vector, top_k=11)
        assert near.results[0].id == "p8"
        assert [result.id for result in like.results] == [result.id for result in near.results[1:]]
        assert [result.retrieval_rank for result in like.results] == list(range(1, 11))
        assert (like.mode, like.reranked) == ("dense", False)
        even = asker.search(id="p8", top_k=5, filter={"number": {"$gte": 30}})
        assert len(even.results) == 5
        both = asker.search("otter", id="p8", top_k=30, top_n=30)
        assert (both.mode, both.reranked, len(both.results)) == ("hybrid", True, 30)
        assert "p8" not in {result.id for result in both.results}
        with pytest.raises(NotFound, match="no passage 'nothing'") as missing:
            asker.search(id="nothing")
        assert missing.value.param == "id"

    def test_what_is_nearest_is_found(self, asker: Asker) -> None:
        encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
        content = passages(COUNT, marker="of-v1")
        vectors = encoder.encode_passages([passage.content for passage in content])
        cosines = vectors @ encoder.encode_queries([QUERIES[0]])[0]
        answer = asker.search(QUERIES[0], top_k=20, mode="dense", rerank=False)
        assert isinstance(answer, SearchResponse)
        np.testing.assert_allclose([result.score for result in answer.results], np.sort(cosines)[::-1][:20], atol=1e-5)
        assert [cosines[int(result.id[1:])] for result in answer.results] == pytest.approx(
            [result.score for result in answer.results], abs=1e-5
        )
        assert answer.results[0].text == "the black otter number n8 of-v1"
        assert answer.results[0].metadata == {"number": 8}
        assert (answer.index_version, answer.mode, answer.reranked, answer.degraded) == ("v1", "dense", False, None)
        assert (answer.coverage.shards, answer.coverage.answered, answer.coverage.fraction) == (2, 2, 1.0)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"top_k": 30, "top_n": 7, "mode": "hybrid"},
            {"rerank": "late", "top_n": 3},
            {"rerank": False, "mode": "lexical"},
            {"filter": {"number": {"$gte": 30}}, "include": ["metadata", "vector"]},
            {"include": [], "recall": 0.9, "mode": "dense", "timeout_ms": 30_000},
            {"group_by": {"field": "number", "size": 2}, "top_n": 12, "mode": "hybrid", "rerank": False},
            {"group_by": {"field": "$document"}, "rerank": "late", "top_n": 4, "min_score": 0.1},
            {"order_by": {"field": "number", "descending": True}, "top_n": 3, "filter": {"number": {"$lt": 9}}},
            {"highlight": True, "rerank": False, "mode": "dense", "top_n": 3},
            {"highlight": True, "rerank": "late", "top_n": 7, "filter": {"number": {"$lt": 30}}},
            {"collapse": True, "diversity": 0.4, "top_n": 5, "facets": ["number"]},
        ],
    )
    def test_every_engine_gives_the_same_answer(
        self, asker: Asker, reference: shoal.Index, options: dict[str, Any]
    ) -> None:
        for query in QUERIES:
            assert comparable(asker.search(query, **options)) == comparable(reference.search(query, **options))

    def test_the_plan_is_explained(self, asker: Asker) -> None:
        explained = asker.search(QUERIES[0], top_k=5, explain=True).explain
        assert explained is not None
        assert len(explained["candidates"]) == 5
        assert asker.search(QUERIES[0]).explain is None

    def test_several_queries_are_answered_in_their_order(self, asker: Asker) -> None:
        answers = asker.search(QUERIES, top_n=1)
        assert [answer.results[0].id for answer in answers] == [
            asker.search(query, top_n=1).results[0].id for query in QUERIES
        ]
        assert len({answer.id for answer in answers}) == len(QUERIES)

    def test_many_queries_are_answered_in_their_order(self, asker: Asker) -> None:
        progress: list[tuple[int, int]] = []
        queries = [f"number n{number}" for number in range(COUNT)]
        answers = asker.search_many(
            iter(queries),
            concurrency=4,
            progress=lambda done, all_: progress.append((done, all_)),
            mode="lexical",
            rerank=False,
            top_n=1,
        )
        assert [answer.results[0].id for answer in answers] == [f"p{number}" for number in range(COUNT)]
        assert progress == [(done, COUNT) for done in range(1, COUNT + 1)]
        with pytest.raises(InvalidArgument, match="top_k"):
            asker.search_many(queries, top_k=0)
        for wrong in ({"queries": "one string"}, {"queries": [], "concurrency": 0}):
            with pytest.raises(InvalidArgument):
                asker.search_many(**wrong)
        assert asker.search_many([]) == []

    def test_several_threads_may_ask(self, asker: Asker) -> None:
        expected = [comparable(asker.search(query)) for query in QUERIES]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(asker.search, QUERIES * 8))
        assert [comparable(answer) for answer in answers] == expected * 8

    @pytest.mark.parametrize(
        ("options", "param"),
        [
            ({"top_k": 0}, "top_k"),
            ({"top_k": 51}, "top_k"),
            ({"top_k": 5, "top_n": 6}, "top_n"),
            ({"top_k": 5.5}, "top_k"),
            ({"query": " "}, "query"),
            ({"query": ["fish", ""]}, "query[1]"),
            ({"query": ["fish"] * 5}, "query"),
            ({"query": 7}, "query"),
            ({"mode": "sparse"}, "mode"),
            ({"rerank": "yes"}, "rerank"),
            ({"filter": {"number": {"$near": 3}}}, "filter.number.$near"),
            ({"filter": {"unknown": 3}}, "filter.unknown"),
            ({"include": ["texts"]}, "include[0]"),
            ({"recall": 2}, "recall"),
            ({"timeout_ms": 0}, "timeout_ms"),
            ({"explain": "no"}, "explain"),
            ({"facets": ["unknown"]}, "facets[0]"),
            ({"facets": [{"field": "number", "limit": 0}]}, "facets[0].limit"),
            ({"group_by": {"field": "unknown"}}, "group_by.field"),
            ({"group_by": {"field": "number", "size": 0}}, "group_by.size"),
            ({"group_by": {"field": "number"}, "diversity": 0.5}, "diversity"),
            ({"after": "WzFd"}, "after"),
            ({"order_by": {"field": "number"}, "rerank": True}, "rerank"),
            ({"unknown": 1}, "unknown"),
            ({"filter": {"number": float("nan")}}, None),
            ({"query": None}, "query"),
            ({"query": None, "vector": [1.0] * 63}, "vector"),
            ({"query": None, "vector": [0.0] * 64}, "vector"),
            ({"query": None, "vector": []}, "vector"),
            ({"query": None, "vector": "AAAA!"}, "vector"),
            ({"query": None, "vector": "AAAA"}, "vector"),
            ({"query": None, "vector": [1e39] * 64}, "vector"),
            ({"query": None, "vector": [1.0, True]}, "vector[1]"),
            ({"query": None, "vector": [[1.0] * 64, [1.0]]}, "vector[1]"),
            ({"query": None, "vector": [[1.0] * 64] * 5}, "vector"),
            ({"query": None, "vector": [1.0] * 64, "mode": "hybrid"}, "mode"),
            ({"query": None, "vector": [1.0] * 64, "rerank": True}, "rerank"),
            ({"query": None, "id": "p1", "rerank": "late"}, "rerank"),
            ({"query": None, "id": "p1", "vector": [1.0] * 64}, "id"),
            ({"query": None, "id": ""}, "id"),
            ({"vector": [1.0] * 64, "mode": "lexical"}, "mode"),
            ({"vector": [[1.0] * 64]}, "vector"),
            ({"query": ["fish", "otter"], "vector": [1.0] * 64}, "vector"),
            ({"query": ["fish"], "id": "p1"}, "id"),
            ({"query": "\udcff"}, None),
        ],
    )
    def test_every_engine_refuses_the_same_with_the_same_words(
        self, asker: Asker, reference: shoal.Index, options: Any, param: str | None
    ) -> None:
        query = options.pop("query", "fish")
        errors = []
        for each in (asker, reference):
            with pytest.raises(InvalidArgument) as raised:
                each.search(query, **options)
            errors.append(raised.value)
        assert errors[0].param == param
        assert (errors[0].message, errors[0].param) == (errors[1].message, errors[1].param)
        options["query"] = query

    def test_versions_change_and_come_back(self, asker: Asker) -> None:
        description = asker.activate("v2")
        assert isinstance(description, IndexDescription)
        assert (description.version, description.previous) == ("v2", "v1")
        answer = asker.search(QUERIES[0])
        assert (answer.index_version, answer.results[0].text) == ("v2", "the black otter number n8 of-v2")
        assert asker.rollback().version == "v1"
        assert asker.search(QUERIES[0]).index_version == "v1"

    @pytest.mark.parametrize(
        ("version", "error"), [("v9", NotFound), ("v3", Conflict), ("../v1", InvalidArgument), ("", InvalidArgument)]
    )
    def test_a_version_that_cannot_be_served_changes_nothing(
        self, asker: Asker, version: str, error: type[ShoalError]
    ) -> None:
        with pytest.raises(error):
            asker.activate(version)
        assert asker.describe().version == "v1"
        assert asker.search(QUERIES[0]).index_version == "v1"

    @pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
    def test_an_index_without_passages_answers_with_none(self, asker: Asker, engine_root: Path, mode: Mode) -> None:
        storage = Storage(str(engine_root))
        empty = next(
            name
            for name in versions.list_versions(storage)
            if not versions.read_manifest(storage, name).counts.passages
        )
        description = asker.activate(empty)
        assert (description.passages, description.dim, description.fields) == (0, 64, {"number": "integer"})
        wanted: list[dict[str, Any]] = [{}, {"rerank": False}, {"filter": {"number": {"$gte": 3}}}]
        for options in wanted:
            answer = asker.search(QUERIES[0], mode=mode, **options)
            assert (answer.results, answer.warnings) == ([], ["this index version holds no passage"])
            assert (answer.degraded, answer.coverage.answered, answer.coverage.fraction) == (None, 2, 1.0)
        assert (asker.fetch(["p1"]).missing, asker.list().ids) == (["p1"], [])

    def test_what_is_served_is_described(self, asker: Asker) -> None:
        description = asker.describe()
        assert (description.version, description.passages, description.shards, description.dim) == ("v1", COUNT, 2, 64)
        assert set(description.modes) == {"dense", "lexical", "hybrid"}
        assert description.late_interaction == "stored"
        assert set(description.fields) == {"number"}
        assert description.models == {"encoder": "hashing:64", "reranker": "overlap"}
        assert asker.ready()

    def test_a_version_that_becomes_current_is_noticed(self, asker: Asker, engine_root: Path) -> None:
        storage = Storage(str(engine_root))
        versions.activate(storage, "v2")
        wait(lambda: asker.describe().version == "v2")
        assert asker.search(QUERIES[0]).index_version == "v2"
        versions.activate(storage, "v1")
        wait(lambda: asker.describe().version == "v1")


def wait(condition: Callable[[], bool]) -> None:
    """Wait until something has been noticed, which takes what `watch_s` says."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it has not been noticed"
        time.sleep(0.02)
