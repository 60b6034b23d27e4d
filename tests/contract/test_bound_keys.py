"""Whoever has a key that is bound to a namespace sees and changes that alone, whatever is asked, in every dialect."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import shoal
from shoal.errors import InvalidArgument, NotFound, PermissionDenied
from shoal.namespaces import MARK
from shoal.serving import keys
from shoal.settings import LexicalSettings
from tests.support.indexes import passages, publish
from tests.support.local_server import serving_locally

FREE, ACME, EVIL, READER, HOME = (keys.make() for _ in range(5))
LINES = [
    keys.line(FREE, "free", "admin"),
    keys.line(ACME, "acme", "write", "100000/s", (), "acme/eu 1"),
    keys.line(EVIL, "evil", "write", None, (), "evil"),
    keys.line(READER, "reader", "read", None, (), "acme/eu 1"),
    keys.line(HOME, "home", "write", None, (), "__default__"),
]
SECRET = {"id": "tenant-doc", "text": "the zebra is our secret", "metadata": {"plan": "takeover", "number": 4711}}
COUNT = 30
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bound")
    (folder / "keys").write_text("\n".join(LINES))
    publish(folder / "index", "v1", passages(COUNT), lexical=LexicalSettings(), writable=True)
    with serving_locally(folder / "index", api_keys_file=str(folder / "keys"), reranker="overlap") as url:
        with client(url, ACME) as acme:
            position = acme.upsert([SECRET, *({**SECRET, "id": f"more-{number}"} for number in range(5))]).position
            acme.search("zebra", min_position=position)
        yield url


def client(url: str, key: str) -> shoal.Client:
    return shoal.Client(url, api_key=key)


def found(answer: Any) -> list[str]:
    return sorted(result.id for result in answer.results)


ALL = sorted(["tenant-doc", *(f"more-{number}" for number in range(5))])


def test_a_key_needs_no_namespace_and_means_its_own(url: str) -> None:
    for key, options in (
        (ACME, {}),
        (READER, {}),
        (READER, {"namespace": "acme/eu 1"}),
        (FREE, {"namespace": "acme/eu 1"}),
    ):
        with client(url, key) as asker:
            for mode in ("dense", "lexical", "hybrid"):
                assert found(asker.search("zebra", mode=mode, top_k=50, top_n=50, **options)) == ALL
            assert asker.list(**options).ids == ALL
            assert [each.id for each in asker.fetch(["tenant-doc", "p1"], **options).passages] == ["tenant-doc"]
            assert len(found(asker.search(id="tenant-doc", top_k=50, **options))) == 5
            assert asker.list_namespaces(prefix="acme").namespaces[0].passages == 6
    with client(url, ACME) as acme:
        described = acme.describe()
        assert (described.passages, described.live) == (6, None)
        assert [size.namespace for size in acme.list_namespaces().namespaces] == ["acme/eu 1"]
    with client(url, HOME) as home:
        assert home.describe().passages == COUNT
        assert len(home.list(limit=100).ids) == COUNT
        assert home.search("otter", top_n=1).results[0].id.startswith("p")


def test_another_namespace_is_refused(url: str) -> None:
    with client(url, EVIL) as evil:
        for name in ("acme/eu 1", "acme", "nobody", "__default__"):
            for call in (
                lambda name=name: evil.search("zebra", namespace=name),
                lambda name=name: evil.search(["zebra", "fish"], namespace=name),
                lambda name=name: evil.fetch(["tenant-doc"], namespace=name),
                lambda name=name: evil.list(namespace=name),
                lambda name=name: evil.upsert([SECRET], namespace=name),
                lambda name=name: evil.update([{"id": "tenant-doc", "metadata": {}}], namespace=name),
                lambda name=name: evil.delete(["tenant-doc"], namespace=name),
                lambda name=name: evil.delete(all=True, namespace=name),
            ):
                with pytest.raises(PermissionDenied, match="bound to another namespace"):
                    call()
        for call in (evil.rollback, lambda: evil.activate("v1")):
            with pytest.raises(PermissionDenied):
                call()
    with client(url, HOME) as home, pytest.raises(PermissionDenied):
        home.search("zebra", namespace="acme/eu 1")
    with client(url, READER) as reader, pytest.raises(PermissionDenied):
        reader.upsert([SECRET])


def test_nothing_of_others_is_seen_counted_or_changed(url: str) -> None:
    with client(url, EVIL) as evil, client(url, ACME) as acme:
        for mode in ("dense", "lexical", "hybrid"):
            answer = evil.search("zebra secret", mode=mode, top_k=50, facets=["plan", "number"], explain=True)
            assert answer.results == []
            assert answer.facets == {"plan": [], "number": []}
            assert all(shard.get("hits", 0) == shard.get("matches", 0) == 0 for shard in answer.explain["shards"])  # type: ignore[index]
        assert evil.search("x", order_by={"field": "number"}, rerank=False).results == []
        assert (evil.list().ids, evil.describe().passages, evil.list_namespaces().namespaces) == ([], 0, [])
        assert evil.fetch(["tenant-doc", "p1"]).missing == ["tenant-doc", "p1"]
        with pytest.raises(NotFound):
            evil.search(id="tenant-doc")
        assert evil.upsert([{"id": "tenant-doc", "text": "mine", "if": {"absent": True}}]).written == 1
        assert evil.update([{"id": "more-1", "metadata": {"a": 1}}]).missing == ["more-1"]
        assert evil.delete(["more-1", "p1"]).deleted == 0
        assert evil.delete(filter={"plan": "takeover"}).deleted == 0
        assert evil.delete(all=True).deleted == 1
        for inner in (f"{MARK}acme/eu 1{MARK}tenant-doc", f"{MARK}{MARK}p1"):
            with pytest.raises(InvalidArgument):
                evil.fetch([inner])
            with pytest.raises(InvalidArgument):
                evil.list(prefix=inner)
        first = acme.search("zebra", mode="dense", rerank=False, top_n=2)
        with pytest.raises(InvalidArgument, match="another request"):
            evil.search("zebra", mode="dense", rerank=False, top_n=2, after=first.next)
        listed = acme.list(limit=2)
        assert evil.list(limit=2, cursor=listed.next).ids == []
        assert acme.list().ids == ALL


def test_a_retry_key_belongs_to_its_namespace(url: str) -> None:
    body = {"passages": [{"id": "retry", "text": "a gnu"}]}
    answers = []
    with httpx.Client(base_url=url, timeout=60) as http:

        def post(key: str, body: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}", "idempotency-key": "same-key"}
            return http.post("/v1/passages", json=body, headers=headers)

        for key in (EVIL, ACME, HOME, EVIL, ACME, HOME):
            answer = post(key, body)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
        assert answers[:3] == answers[3:]
        assert len({answer["position"] for answer in answers}) == 3
        assert [answer["written"] for answer in answers[:3]] == [1, 1, 1]
        other = post(EVIL, {"passages": [{"id": "retry", "text": "another gnu"}]})
        assert other.status_code == 422
        assert "'same-key'" in other.json()["error"]["message"]
        for key in (EVIL, ACME, HOME):
            headers = {"authorization": f"Bearer {key}"}
            assert http.post("/v1/passages/delete", json={"ids": ["retry"]}, headers=headers).json()["deleted"] == 1


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    call = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}


VECTOR = [1.0] + [0.0] * 63
ASKED: list[tuple[str, str, Any]] = [
    ("POST", "/v1/search", {"query": "zebra secret", "explain": True, "facets": ["plan"], "highlight": True}),
    ("POST", "/v1/search", {"query": ["zebra", "secret"], "group_by": {"field": "plan"}}),
    ("POST", "/v1/search", {"id": "tenant-doc"}),
    ("POST", "/v1/search", {"vector": VECTOR}),
    ("POST", "/v1/passages/fetch", {"ids": ["more-1"]}),
    ("GET", "/v1/passages?limit=100", None),
    ("GET", "/v1/namespaces", None),
    ("GET", "/v1/namespaces?prefix=acme", None),
    ("DELETE", "/v1/namespaces/acme%2Feu%201", None),
    ("GET", "/v1/index", None),
    ("POST", "/i/index/query", {"topK": 10, "vector": VECTOR, "includeMetadata": True}),
    ("POST", "/i/index/query", {"topK": 10, "id": "tenant-doc", "includeMetadata": True}),
    ("POST", "/i/index/describe_index_stats", {}),
    ("GET", "/i/index/vectors/fetch?ids=more-1", None),
    ("GET", "/i/index/vectors/list", None),
    ("GET", "/i/index/namespaces", None),
    ("GET", "/i/index/namespaces/acme", None),
    ("POST", "/i/index/records/namespaces/__default__/search", {"query": {"inputs": {"text": "zebra"}, "top_k": 9}}),
    ("POST", "/i/index/vectors/delete", {"ids": ["tenant-doc"]}),
    ("POST", "/i/index/vectors/update", {"id": "more-1", "setMetadata": {"stolen": "yes"}}),
    ("GET", "/indexes", None),
    ("GET", "/v1/indexes", None),
    (
        "POST",
        "/retrieval",
        {"knowledge_id": "default", "query": "zebra", "retrieval_setting": {"top_k": 9, "score_threshold": 0}},
    ),
    ("POST", "/mcp", tool("search", query="zebra secret")),
    ("POST", "/mcp", tool("similar", id="tenant-doc")),
    ("POST", "/mcp", tool("get", ids=["more-1", "more-2"])),
    ("POST", "/mcp", tool("describe_index")),
    ("GET", "/i/index/namespaces?prefix=acme", None),
    ("GET", "/i/index/namespaces/acme%2Feu%201", None),
    ("DELETE", "/i/index/namespaces/acme%2Feu%201", None),
    ("POST", "/i/index/query", {"topK": 10, "vector": VECTOR, "namespace": "acme/eu 1", "includeMetadata": True}),
    ("GET", "/i/index/vectors/fetch?ids=more-1&namespace=acme%2Feu%201", None),
    ("POST", "/i/index/vectors/delete", {"deleteAll": True, "namespace": "acme/eu 1"}),
    ("POST", "/i/index/records/namespaces/acme%2Feu%201/search", {"query": {"inputs": {"text": "zebra"}, "top_k": 9}}),
    ("POST", "/i/index/vectors/fetch_by_metadata", {"filter": {"number": {"$exists": False}}}),
    ("POST", "/i/index/vectors/fetch_by_metadata", {"filter": {"number": 1}, "namespace": "acme/eu 1"}),
    ("POST", "/i/index/vectors/upsert", {"vectors": [{"id": "more-1", "values": VECTOR}], "namespace": "acme/eu 1"}),
    ("POST", "/v1/search", {"query": "x", "order_by": {"field": "$id"}, "filter": {"number": {"$exists": False}}}),
    ("GET", "/v1/index/versions", None),
]


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_no_route_tells_what_lies_in_another_namespace(url: str, number: int) -> None:
    method, path, body = ASKED[number]
    texts = {}
    for name, key in (("evil", EVIL), ("home", HOME), ("acme", ACME)):
        if name == "acme" and (method == "DELETE" or "vectors/" in path):
            continue  # it would change its own
        answer = httpx.request(
            method, url + path, json=body, headers={**HEADERS, "authorization": f"Bearer {key}"}, timeout=60
        )
        assert answer.status_code < 500, answer.text
        texts[name] = answer.text
    for name in ("evil", "home"):
        given = json.dumps(body or {}) + path
        for secret in ("zebra", "takeover", "4711", "acme", MARK, "\\udbff", "more-0", "more-3"):
            assert secret not in texts[name] or secret in given, (name, secret)
        assert '"plan": "takeover"' not in texts[name]
        assert "our secret" not in texts[name]
    if number in (0, 1, 2, 3, 23, 24):  # what is not told to others is there
        assert "our secret" in texts["acme"]


def test_namespaces_are_as_they_were(url: str) -> None:
    with client(url, FREE) as free:
        sizes = {size.namespace: size.passages for size in free.list_namespaces().namespaces}
        assert sizes == {"": COUNT, "acme/eu 1": 6}
        assert free.fetch(["tenant-doc", "more-1"], namespace="acme/eu 1").passages[1].metadata == SECRET["metadata"]
        assert free.describe().passages == COUNT + 6
