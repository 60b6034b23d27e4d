"""Our retrievers and rerankers for LangChain, LlamaIndex and Haystack, and the examples of docs/frameworks.md."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.errors import InvalidArgument
from shoal.indexing.empty import create_index
from shoal.serving import keys
from shoal.settings import CreateSettings
from tests.support.dialects import DOCUMENTS, ENCODER, RERANKER, scores_of
from tests.support.environments import environment_of, installs, run_in
from tests.support.local_server import serving_locally
from tests.support.long import only_long

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "frameworks.md"
ADAPTERS = ROOT / "tests" / "support" / "adapters"
STANDARD_TESTS, DSPY_EXAMPLE = ADAPTERS / "langchain_standard.py", ADAPTERS / "dspy_example.py"
KEY = keys.make()
QUERY = "how do fish sleep"
PASSAGES: list[dict[str, Any]] = [
    {
        "id": "fish",
        "title": "Rest",
        "text": "Most fish sleep with open eyes.",
        "metadata": {"year": 2020, "lang": "en"},
    },
    {"id": "coral", "text": "Some corals survive heat.", "metadata": {"year": 2021, "lang": "en"}},
    {"id": "otter", "text": "Otters sleep afloat.", "metadata": {"year": 2018, "lang": "en"}},
    {"id": "heron", "text": "Herons hunt fish by day.", "metadata": {"year": 2019, "lang": "fi"}},
    {"id": "carp", "text": "How carp sleep: near the ground.", "metadata": {"lang": "en"}},
]
ORDER = ["fish", "carp", "otter"]
RELEVANCE = sorted(scores_of("black otter", DOCUMENTS), reverse=True)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("frameworks")
    create_index(CreateSettings(index=str(folder / "articles"), encoder=ENCODER))
    with shoal.open(folder / "articles") as index:
        index.upsert(PASSAGES)
    (folder / "keys.txt").write_text(keys.line(KEY, "frameworks") + "\n")
    with serving_locally(folder / "articles", reranker=RERANKER, api_keys_file=str(folder / "keys.txt")) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[shoal.Client]:
    with shoal.Client(url, api_key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def ids(client: shoal.Client) -> list[str]:
    """What the server itself answers."""
    return [result.id for result in client.search(QUERY, top_n=3).results]


def code_below(heading: str, url: str) -> str:
    """The example below a heading of the page, with a server of this test."""
    page = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2]
    [code, *_] = re.findall(r"(?ms)^```python\n(.*?)^```", page)
    assert "http://127.0.0.1:8000" in code
    return str(code).replace("http://127.0.0.1:8000", url)


def example(heading: str, url: str) -> Any:
    """Run the example below a heading of the page; returns its names."""
    names: dict[str, Any] = {}
    exec(compile(code_below(heading, url), heading, "exec"), names)
    return names


# --- LangChain --------------------------------------------------------------------------------------------------------


class TestLangChain:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("langchain_core")
        monkeypatch.setenv("SHOAL_API_KEY", KEY)

    def test_the_example_of_the_page(self, url: str) -> None:
        names = example("LangChain", url)
        assert [document.id for document in names["documents"]] == ["fish", "coral"]
        assert names["best"][0].page_content == PASSAGES[0]["text"]

    def test_documents_hold_what_a_passage_is(self, client: shoal.Client, ids: list[str]) -> None:
        from shoal.integrations.langchain import ShoalRetriever

        documents = ShoalRetriever(client=client, k=3).invoke(QUERY)
        answer = client.search(QUERY, top_n=3).results
        assert [document.id for document in documents] == ids
        assert [document.metadata["score"] for document in documents] == [result.score for result in answer]
        first = next(document for document in documents if document.id == "fish")
        assert first.page_content == PASSAGES[0]["text"]
        assert {"year": 2020, "lang": "en", "title": "Rest"}.items() <= first.metadata.items()

    def test_options_are_those_of_the_retriever_and_of_a_call(self, client: shoal.Client) -> None:
        from shoal.integrations.langchain import ShoalRetriever

        retriever = ShoalRetriever(client=client, k=5, options={"filter": {"lang": "en"}, "rerank": False})
        assert len(retriever.invoke(QUERY)) == 4
        assert [document.id for document in retriever.invoke(QUERY, filter={"lang": "fi"})] == ["heron"]
        assert len(retriever.invoke(QUERY, k=2)) == 2

    async def test_asyncio(self, url: str, client: shoal.Client, ids: list[str]) -> None:
        from langchain_core.documents import Document

        from shoal.integrations.langchain import ShoalRerank, ShoalRetriever

        texts = [Document(text, id=str(place)) for place, text in enumerate(DOCUMENTS)]
        async with shoal.AsyncClient(url, api_key=KEY) as async_client:
            for given in (None, async_client):
                retriever = ShoalRetriever(client=client, async_client=given, k=3)
                assert [document.id for document in await retriever.ainvoke(QUERY)] == ids
                reranker = ShoalRerank(client=client, async_client=given, top_n=2)
                best = await reranker.acompress_documents(texts, "black otter")
                assert [document.id for document in best] == ["2", "3"]
                assert await reranker.acompress_documents([], "black otter") == []

    def test_documents_from_elsewhere_are_reranked(self, client: shoal.Client) -> None:
        from langchain_core.documents import Document

        from shoal.integrations.langchain import ShoalRerank

        documents = [Document(text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]
        best = ShoalRerank(client=client).compress_documents(documents, "black otter")
        assert [document.metadata["place"] for document in best][:2] == [2, 3]
        assert [document.metadata["relevance_score"] for document in best] == pytest.approx(RELEVANCE[:3])
        assert "relevance_score" not in documents[2].metadata
        assert len(ShoalRerank(client=client, top_n=None).compress_documents(documents, "black otter")) == 4
        assert ShoalRerank(client=client).compress_documents([], "black otter") == []

    def test_errors_are_those_of_the_client(self, client: shoal.Client) -> None:
        from shoal.integrations.langchain import ShoalRetriever

        with pytest.raises(InvalidArgument, match="no such field"):
            ShoalRetriever(client=client).invoke(QUERY, filter={"genre": "drama"})


@only_long
@installs
def test_langchains_own_tests_of_retrievers(url: str, tmp_path: Path) -> None:
    python = environment_of("langchain-tests", "orjson")
    folder = tmp_path / "tests"
    folder.mkdir()
    shutil.copy(STANDARD_TESTS, folder / "test_standard.py")
    arguments = ["-v", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "."]
    (folder / "run.py").write_text(f"import pytest, sys\nsys.exit(pytest.main({arguments!r}))\n")
    done = run_in(python, folder / "run.py", PYTHONPATH=str(ROOT), SHOAL_URL=url, SHOAL_API_KEY=KEY)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


# --- LlamaIndex -------------------------------------------------------------------------------------------------------


class TestLlamaIndex:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("llama_index.core")
        monkeypatch.setenv("SHOAL_API_KEY", KEY)

    def test_the_example_of_the_page(self, url: str) -> None:
        names = example("LlamaIndex", url)
        assert len(names["nodes"]) == 3
        assert names["best"][0].node.get_content() == PASSAGES[0]["text"]

    async def test_nodes_hold_what_a_passage_is(self, url: str, client: shoal.Client, ids: list[str]) -> None:
        from shoal.integrations.llama_index import ShoalRetriever

        answer = client.search(QUERY, top_n=3).results
        async with shoal.AsyncClient(url, api_key=KEY) as async_client:
            alone, both = ShoalRetriever(client, top_n=3), ShoalRetriever(client, async_client=async_client, top_n=3)
            for nodes in (alone.retrieve(QUERY), await alone.aretrieve(QUERY), await both.aretrieve(QUERY)):
                assert [node.node.node_id for node in nodes] == ids
                assert [node.score for node in nodes] == [result.score for result in answer]
                first = next(node.node for node in nodes if node.node.node_id == "fish")
                assert first.get_content() == PASSAGES[0]["text"]
                assert first.metadata == {"year": 2020, "lang": "en", "title": "Rest"}

    def test_options_are_those_of_a_search(self, client: shoal.Client) -> None:
        from shoal.integrations.llama_index import ShoalRetriever

        retriever = ShoalRetriever(client, options={"filter": {"lang": "fi"}, "rerank": False})
        assert [node.node.node_id for node in retriever.retrieve(QUERY)] == ["heron"]

    async def test_nodes_from_elsewhere_are_reranked(self, url: str, client: shoal.Client) -> None:
        from llama_index.core.schema import NodeWithScore, TextNode

        from shoal.integrations.llama_index import ShoalRerank

        nodes = [NodeWithScore(node=TextNode(text=text), score=0.1) for text in DOCUMENTS]
        async with shoal.AsyncClient(url, api_key=KEY) as async_client:
            alone, both = (
                ShoalRerank(client=client, top_n=2),
                ShoalRerank(client=client, async_client=async_client, top_n=2),
            )
            for best in (
                alone.postprocess_nodes(nodes, query_str="black otter"),
                await alone.apostprocess_nodes(nodes, query_str="black otter"),
                await both.apostprocess_nodes(nodes, query_str="black otter"),
            ):
                assert [node.node.get_content() for node in best] == [DOCUMENTS[2], DOCUMENTS[3]]
                assert [node.score for node in best] == pytest.approx(RELEVANCE[:2])
        assert len(ShoalRerank(client=client, top_n=None).postprocess_nodes(nodes, query_str="black otter")) == 4
        assert ShoalRerank(client=client).postprocess_nodes([], query_str="black otter") == []
        with pytest.raises(ValueError, match="query_str"):
            ShoalRerank(client=client).postprocess_nodes(nodes)


# --- Haystack ---------------------------------------------------------------------------------------------------------


class TestHaystack:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
        pytest.importorskip("haystack")
        monkeypatch.setenv("SHOAL_API_KEY", KEY)

    def test_the_example_of_the_page(self, url: str) -> None:
        names = example("Haystack", url)
        assert sorted(document.id for document in names["documents"]) == ["coral", "fish"]

    async def test_documents_hold_what_a_passage_is(self, url: str, client: shoal.Client, ids: list[str]) -> None:
        from shoal.integrations.haystack import ShoalRetriever

        retriever = ShoalRetriever(url, top_k=3)
        answer = client.search(QUERY, top_n=3).results
        for made in (retriever.run(QUERY), await retriever.run_async(QUERY)):
            documents = made["documents"]
            assert [document.id for document in documents] == ids
            assert [document.score for document in documents] == [result.score for result in answer]
            first = next(document for document in documents if document.id == "fish")
            assert first.content == PASSAGES[0]["text"]
            assert first.meta == {"year": 2020, "lang": "en", "title": "Rest"}

    def test_what_a_run_is_told_replaces_what_the_component_was(self, url: str) -> None:
        from shoal.integrations.haystack import ShoalRetriever

        retriever = ShoalRetriever(url, filters={"lang": "fi"}, options={"rerank": False})
        assert [document.id for document in retriever.run(QUERY)["documents"]] == ["heron"]
        english = {"field": "meta.lang", "operator": "==", "value": "en"}
        assert len(retriever.run(QUERY, filters=english, top_k=2)["documents"]) == 2

    @pytest.mark.parametrize(
        ("filters", "ours", "ids"),
        [
            ({"field": "meta.year", "operator": ">", "value": 2019}, {"year": {"$gt": 2019}}, ["coral", "fish"]),
            ({"field": "lang", "operator": "in", "value": ["fi"]}, {"lang": {"$in": ["fi"]}}, ["heron"]),
            ({"field": "meta.year", "operator": "==", "value": None}, {"year": {"$exists": False}}, ["carp"]),
            (
                {
                    "operator": "AND",
                    "conditions": [
                        {"field": "meta.lang", "operator": "==", "value": "en"},
                        {
                            "operator": "NOT",
                            "conditions": [{"field": "meta.year", "operator": "<=", "value": 2020}],
                        },
                    ],
                },
                {"$and": [{"lang": {"$eq": "en"}}, {"$not": {"$and": [{"year": {"$lte": 2020}}]}}]},
                ["carp", "coral"],
            ),
            ({"year": {"$gte": 2020}}, {"year": {"$gte": 2020}}, ["coral", "fish"]),
        ],
        ids=["comparison", "list", "nothing", "nested", "ours"],
    )
    def test_filters(self, url: str, filters: dict[str, Any], ours: dict[str, Any], ids: list[str]) -> None:
        from shoal.integrations.haystack import ShoalRetriever, shoal_filter

        assert shoal_filter(filters) == ours
        documents = ShoalRetriever(url).run(QUERY, filters=filters)["documents"]
        assert sorted(document.id for document in documents) == ids

    def test_an_operator_that_haystack_has_not_is_refused(self) -> None:
        from shoal.integrations.haystack import shoal_filter

        with pytest.raises(InvalidArgument, match="'XOR' is no operator"):
            shoal_filter({"operator": "XOR", "conditions": []})

    async def test_documents_from_elsewhere_are_ranked(self, url: str) -> None:
        from haystack import Document

        from shoal.integrations.haystack import ShoalRanker

        documents = [Document(content=text) for text in DOCUMENTS]
        ranker = ShoalRanker(url, top_k=2)
        for made in (ranker.run("black otter", documents), await ranker.run_async("black otter", documents)):
            assert [document.content for document in made["documents"]] == [DOCUMENTS[2], DOCUMENTS[3]]
            assert [document.score for document in made["documents"]] == pytest.approx(RELEVANCE[:2])
        assert len(ranker.run("black otter", documents, top_k=4)["documents"]) == 4
        assert ranker.run("black otter", []) == {"documents": []}
        assert documents[2].score is None

    def test_a_pipeline_is_saved_without_the_key(self, url: str, ids: list[str]) -> None:
        from haystack import Pipeline

        from shoal.integrations.haystack import ShoalRanker, ShoalRetriever

        pipeline = Pipeline()
        pipeline.add_component("retriever", ShoalRetriever(url, top_k=3))
        pipeline.add_component("ranker", ShoalRanker(url, top_k=2))
        pipeline.connect("retriever", "ranker")
        saved = pipeline.dumps()
        assert KEY not in saved
        loaded = Pipeline.loads(saved, allowed_modules=["shoal.integrations.haystack"])
        answer = loaded.run({"retriever": {"query": QUERY}, "ranker": {"query": QUERY}})
        assert [document.id for document in answer["ranker"]["documents"]] == ids[:2]


# --- DSPy -------------------------------------------------------------------------------------------------------------


@only_long
@installs
def test_the_example_of_dspy_with_its_package(url: str, client: shoal.Client, tmp_path: Path) -> None:
    """Its module asks the language model with the passages of the server, in their order, and returns its answer."""
    python = environment_of("dspy", "httpx", "orjson")
    code = tmp_path / "example.py"
    code.write_text(code_below("DSPy", url), "utf-8")
    variables = {"PYTHONPATH": str(ROOT), "SHOAL_API_KEY": KEY, "DSPY_CACHEDIR": str(tmp_path / "cache")}
    done = run_in(python, DSPY_EXAMPLE, str(code), QUERY, **variables)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["answer"] == "With open eyes."
    positions = [outcome["prompt"].index(result.text) for result in client.search(QUERY, top_n=3).results]
    assert len(positions) == 3
    assert positions == sorted(positions)
    assert KEY not in done.stdout
