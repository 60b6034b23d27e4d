"""Encoders and rerankers that another server computes: against Shoal's own endpoints, and a server that misbehaves."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

import shoal
from serve.local import local_api
from shoal.encoders import load_encoder
from shoal.engine.engine import LocalEngine
from shoal.errors import DeadlineExceeded, InvalidArgument, ModelUnavailable, Overloaded, ShoalError, Unavailable
from shoal.rerankers import DeadlineReranker, Reranker, kind_of, load_reranker, scale_of
from shoal.search.local_encoder import LocalEncoder
from shoal.settings import EncoderSettings, RerankerSettings, RunSettings, ServeSettings
from shoal.system.threads import Threads
from shoal.testing.encoder_contract import TEXTS
from shoal.testing.reranker_contract import PAIRS, RerankerContract
from tests.support.dialects import ENCODER, publish_articles, vectors_of
from tests.support.indexes import passages, publish

KEY = "a-key-that-is-not-to-be-seen"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_articles(tmp_path_factory.mktemp("remote"))


class Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="module")
def own(root: Path) -> Iterator[str]:
    """The address of a Shoal with the encoder of the index and the reranker `overlap`."""
    settings = RunSettings(index=str(root), local=True, reranker="overlap")
    engine = LocalEngine(settings.part(ServeSettings))

    async def run() -> None:
        await engine.open()
        await server.serve()
        engine.close()

    server = Server(uvicorn.Config(local_api(engine, settings), port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    server.ready.wait()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


Answer = Callable[[dict[str, Any]], tuple[int, Any]]


@contextmanager
def endpoint(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server whose answers a test gives; yields its address, and the headers and bodies that it was sent."""
    sent: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            sent.append({"headers": dict(self.headers), "body": body, "path": self.path})
            status, said = answer(body)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if status == 429:
                self.send_header("retry-after", "Infinity")  # which is no number of seconds
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reranker_at(address: str) -> Reranker:
    return load_reranker(RerankerSettings(reranker=address))


async def score_until(address: str, seconds: float, passages: tuple[str, ...] = ("a", "b")) -> Any:
    reranker = reranker_at(address)
    assert isinstance(reranker, DeadlineReranker)
    return await reranker.score_until("q", passages, time.monotonic() + seconds)


class TestOwnReranker(RerankerContract):
    """The promises of a reranker, kept by one that another Shoal computes."""

    @pytest.fixture(scope="class", params=["/v1/rerank", "/v2/rerank#overlap", "/rerank"])
    def reranker(self, request: pytest.FixtureRequest, own: str) -> Reranker:
        return reranker_at(own + request.param)

    def test_scores_are_those_of_the_reranker_itself(self, reranker: Reranker) -> None:
        pairs = [(query, text) for query, text in PAIRS if query.strip() and text.strip()]
        np.testing.assert_allclose(reranker.score_pairs(pairs), reranker_at("overlap").score_pairs(pairs), atol=1e-6)


def test_vectors_of_another_shoal_are_those_of_its_encoder(own: str) -> None:
    encoder = load_encoder(EncoderSettings(encoder=f"{own}/v1/embeddings"))
    texts = [text for text in TEXTS if text.strip() and len(text) < 1000 and "\ud800" not in text] * 8
    np.testing.assert_allclose(encoder.encode_queries(texts), vectors_of(texts, "query"), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_passages(texts), vectors_of(texts, "passage"), atol=1e-6)
    fingerprint = encoder.fingerprint()
    assert (fingerprint.weights, fingerprint.dim, fingerprint.pooling) == (f"remote:{ENCODER}", 64, "remote")
    cut = load_encoder(EncoderSettings(**fingerprint.options | {"dimensions": 16}))
    expected = vectors_of(texts, "query")[:, :16]
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)  # hashing leaves zeros
    np.testing.assert_allclose(cut.encode_queries(texts), expected, atol=1e-6)
    assert not cut.fingerprint().matches(fingerprint)


def test_an_index_is_served_by_a_remote_encoder_and_reranker(own: str, tmp_path: Path) -> None:
    address = f"{own}/v1/embeddings"
    publish(tmp_path / "index", "v1", passages(60), encoder=address)
    with shoal.open(str(tmp_path / "index"), encoder=address, reranker=f"{own}/v1/rerank") as index:
        answer = index.search("otter heron", mode="dense", top_k=5, top_n=5)
    assert not answer.degraded
    expected = reranker_at("overlap").score("otter heron", [str(result.text) for result in answer.results])
    np.testing.assert_allclose([result.score for result in answer.results], expected, atol=1e-6)
    with shoal.open(str(tmp_path / "index"), encoder=address) as index:  # the default reranker needs vectors of tokens
        assert index.search("otter", mode="dense", rerank=False).results


def test_an_endpoint_that_the_index_alone_names_is_sent_nothing(tmp_path: Path) -> None:
    with endpoint(lambda body: (200, {"data": [{"index": 0, "embedding": [1, 0]}]})) as (address, sent):
        publish(tmp_path / "index", "v1", passages(1), encoder=f"{address}/v1/embeddings")
        sent.clear()
        with pytest.raises(InvalidArgument, match=r"the endpoint http://127.0.0.1:\d+/v1/embeddings; set"):
            shoal.open(str(tmp_path / "index"))
        assert not sent


def test_an_answer_goes_without_a_reranker_that_is_away(root: Path) -> None:
    with shoal.open(str(root), reranker="http://127.0.0.1:9/v1/rerank") as index:
        answer = index.search("otter", top_k=5, top_n=5)
    assert answer.results
    assert answer.degraded
    assert "reranker is not reachable" in str(answer)


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text(f"{KEY}\n")
    with endpoint(lambda body: (403, {"detail": "no"})) as (address, sent):
        for name, value in (("SHOAL_RERANKER_KEY", KEY), ("SHOAL_RERANKER_KEY_FILE", str(tmp_path / "key"))):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                with pytest.raises(ModelUnavailable, match=r"refuses the key.*set SHOAL_RERANKER_KEY") as refused:
                    reranker_at(f"{address}/v1/rerank#m").score("q", ["a"])
                assert KEY not in str(refused.value)
    assert [one["headers"]["authorization"] for one in sent] == [f"Bearer {KEY}"] * 2
    assert sent[0]["body"] == {"model": "m", "query": "q", "documents": ["a"], "top_n": 1, "return_documents": False}
    assert KEY not in caplog.text


def test_a_key_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_RERANKER_KEY_FILE", "/no/such/key")
    with pytest.raises(InvalidArgument, match="SHOAL_RERANKER_KEY_FILE: /no/such/key cannot be read"):
        reranker_at("http://127.0.0.1/v1/rerank")


async def test_what_passes_is_tried_again_and_what_stays_is_told() -> None:
    statuses = iter([503, 429, 200])
    results = {"results": [{"index": 1, "relevance_score": 0.25}, {"index": 0, "relevance_score": 0.5}]}
    with endpoint(lambda body: (next(statuses), results)) as (address, sent):
        assert (await score_until(f"{address}/v1/rerank", 30)).tolist() == [0.5, 0.25]
        assert len(sent) == 3
    for status, error, times in ((503, Unavailable, 3), (429, Overloaded, 3), (400, ShoalError, 1)):
        with endpoint(lambda body, status=status: (status, {"detail": "the reason"})) as (address, sent):
            with pytest.raises(error, match=f"answers {status}: .*the reason"):
                await score_until(f"{address}/v1/rerank", 30)
            assert len(sent) == times


async def test_a_deadline_ends_a_call() -> None:
    release = threading.Event()

    def hang(body: dict[str, Any]) -> tuple[int, Any]:
        release.wait()
        return 200, {}

    with endpoint(hang) as (address, _):
        try:
            with pytest.raises(DeadlineExceeded, match=r"before http://127.0.0.1"):
                await score_until(f"{address}/v1/rerank", 0.05)
        finally:
            release.set()


async def test_an_encoder_is_free_again_once_the_deadline_of_a_search_has_passed() -> None:
    """What hangs must not hold the thread of the encoder, and with it the searches behind, for a minute."""
    release, hanging = threading.Event(), threading.Event()

    def hang(body: dict[str, Any]) -> tuple[int, Any]:
        if body["input"] == ["hang"]:
            hanging.set()
            release.wait()
        return vectors(4)(body)

    with endpoint(hang) as (address, _):
        encoder = LocalEncoder(load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings")), Threads(1, "e"), 0)
        try:
            with pytest.raises(DeadlineExceeded):
                await encoder.encode(["hang"], time.monotonic() + 0.2)
            assert hanging.is_set()
            assert (await encoder.encode(["fish"], time.monotonic() + 30)).shape == (1, 4)
        finally:
            release.set()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"<html>", id="no-json"),
        pytest.param({"results": [{"index": 0, "relevance_score": 1}]}, id="one-missing"),
        pytest.param({"results": None}, id="none"),
        pytest.param([1, 2], id="another-shape"),
        pytest.param({"results": [{"index": n, "relevance_score": float("nan")} for n in (0, 1)]}, id="nan"),
        pytest.param({"results": [{"index": n, "relevance_score": 1e300} for n in (0, 1)]}, id="beyond-float32"),
        pytest.param({"results": [{"index": n, "relevance_score": 10**400} for n in (0, 1)]}, id="beyond-float64"),
        pytest.param({"results": [{"index": float("inf"), "relevance_score": 1}]}, id="infinite-index"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(said: Any) -> None:
    with (
        endpoint(lambda body: (200, said)) as (address, _),
        pytest.raises(ShoalError, match=f"{address}.* answers with"),
    ):
        reranker_at(f"{address}/v1/rerank").score("q", ["a", "b"])


def test_text_embeddings_inference_is_asked_in_its_own_way() -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        ranked = [{"index": place, "score": len(text) / 100} for place, text in enumerate(body["texts"])]
        return 200, ranked[::-1]

    with endpoint(answer) as (address, sent):
        scores = reranker_at(f"{address}/rerank").score("q", ["x" * length for length in range(1, 41)])
    np.testing.assert_allclose(scores, np.arange(1, 41) / 100, atol=1e-6)
    assert sorted(len(one["body"]["texts"]) for one in sent) == [8, 32]


def test_an_encoder_of_no_shoal_is_given_the_prompts_of_its_model() -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        data = [{"index": place, "embedding": [3.0, 4.0]} for place in range(len(body["input"]))]
        return 200, {"data": data, "model": "served"}

    with endpoint(answer) as (address, sent):
        encoder = load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings#intfloat/multilingual-e5-large"))
        np.testing.assert_allclose(encoder.encode_queries(["fish"]), [[0.6, 0.8]], atol=1e-6)
        encoder.encode_passages(["fish"])
        plain = load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings"))
    assert [one["body"]["input"] for one in sent[1:3]] == [["query: fish"], ["passage: fish"]]
    assert "input_type" not in sent[1]["body"]
    assert plain.fingerprint().weights == "remote:served"


def vectors(dim: int) -> Answer:
    """Answers every text with a vector of so many dimensions, no two numbers of which are equal."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        embedding = list(range(1, dim + 1))
        data = [{"index": place, "embedding": embedding} for place in range(len(body["input"]))]
        return 200, {"data": data, "model": "served"}

    return answer


def test_vectors_of_another_length_than_at_the_beginning_are_refused() -> None:
    dim = 4
    with endpoint(lambda body: vectors(dim)(body)) as (address, _):
        for dimensions in (None, 2):
            dim = 4
            encoder = load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings", dimensions=dimensions))
            for dim in (8, 3):
                with pytest.raises(
                    ShoalError, match=rf"vectors of {dim} dimensions and had 4 before: .* another model"
                ):
                    encoder.encode_passages(["a"] * 40)


def test_a_model_with_longer_vectors_under_the_same_name_is_another_encoder() -> None:
    with endpoint(vectors(4)) as (address, _):
        built = load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings")).fingerprint()
        cut = load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings", dimensions=2)).fingerprint()
        for fingerprint in (built, cut):
            assert load_encoder(EncoderSettings(**fingerprint.options)).fingerprint() == fingerprint
    for dim in (8, 5):
        with endpoint(vectors(dim)) as (address, _):
            for fingerprint in (built, cut):
                options = fingerprint.options | {"encoder": f"{address}/v1/embeddings"}
                other = load_encoder(EncoderSettings(**options)).fingerprint()
                assert other.dim == fingerprint.dim
                assert not other.matches(fingerprint)


def test_an_encoder_that_was_not_told_what_texts_are_is_another_one(own: str) -> None:
    """A list of models that cannot be read for a moment must not make vectors of queries out of passages."""
    told = load_encoder(EncoderSettings(encoder=f"{own}/v1/embeddings"))
    with endpoint(lambda body: (200, {"data": [{"index": 0, "embedding": [1.0] * 64}], "model": ENCODER})) as (away, _):
        untold = load_encoder(EncoderSettings(encoder=f"{away}/v1/embeddings"))
    assert (told.fingerprint().weights, told.fingerprint().dim) == (untold.fingerprint().weights, 64)
    assert not told.fingerprint().matches(untold.fingerprint())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([{"index": float("inf"), "embedding": [1.0]}], id="infinite-index"),
        pytest.param([{"index": 0, "embedding": [1e300]}], id="beyond-float32"),
        pytest.param([{"index": 0, "embedding": [10**400]}], id="beyond-float64"),
        pytest.param([{"index": 1, "embedding": [1.0]}], id="another-place"),
    ],
)
def test_vectors_that_make_no_sense_are_an_error(data: Any) -> None:
    with (
        endpoint(lambda body: (200, {"data": data})) as (address, _),
        pytest.raises(ModelUnavailable, match="something else than a vector of each text"),
    ):
        load_encoder(EncoderSettings(encoder=f"{address}/v1/embeddings"))


def test_an_encoder_that_does_not_answer_is_not_to_be_had() -> None:
    with pytest.raises(ModelUnavailable, match=r"encoder cannot be asked: http://127.0.0.1:9/v1/embeddings cannot be"):
        load_encoder(EncoderSettings(encoder="http://127.0.0.1:9/v1/embeddings"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://host/v1", "should be the whole address of an endpoint"),
        ("http://host/v1/rerank?api-key=secret", "nothing behind a question mark; put the key in SHOAL_RERANKER_KEY"),
        ("http:///v1/rerank", "should be the whole address"),
        ("http://me:secret@host/v1/rerank", "holds no password"),
    ],
)
def test_addresses_that_name_no_endpoint_are_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        reranker_at(name)
    assert "secret" not in str(refused.value)
    assert (kind_of(name), scale_of(name)) == ("_remote", "unit")
