"""Pinecone's data plane over gRPC: the same answers and refusals as over HTTP, and what hostile clients get.

Long because all of it asks one server, over gRPC and over HTTP.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from serve.grpc_server.data_calls import CALLS
from serve.grpc_server.messages import MESSAGES
from serve.grpc_server.server import STREAMS
from shoal.indexing.empty import create_index
from shoal.serving import keys
from shoal.settings import CreateSettings
from tests.support.certificates import write_certificate
from tests.support.dialects import ENCODER, QUERY, RERANKER, publish_articles, vectors_of
from tests.support.grpc_client import PATIENCE_S, GrpcClient, grpc_client
from tests.support.indexes import passages
from tests.support.local_server import serving_locally
from tests.support.serving import free_port

KEY, READ_KEY, OTHER_KEY, ACME_KEY, EVIL_KEY = (keys.make() for _ in range(5))
VECTOR = vectors_of([QUERY], "query")[0].tolist()
STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    409: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
PATHS = {
    "Query": "query", "DescribeIndexStats": "describe_index_stats", "Fetch": "vectors/fetch", "List": "vectors/list",
    "Upsert": "vectors/upsert", "Update": "vectors/update", "Delete": "vectors/delete",
    "FetchByMetadata": "vectors/fetch_by_metadata", "ListNamespaces": "namespaces",
    "DescribeNamespace": "namespaces/{namespace}", "DeleteNamespace": "namespaces/{namespace}",
}  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A server, by both of its ports, with a key that may write."""

    http: httpx.Client
    grpc: GrpcClient
    port: int

    def over_http(self, name: str, fields: dict[str, Any], **headers: str) -> httpx.Response:
        path = f"/i/articles/{PATHS[name]}"
        if name in ("DescribeNamespace", "DeleteNamespace"):
            method = "GET" if name == "DescribeNamespace" else "DELETE"
            return self.http.request(method, path.format(namespace=fields.get("namespace", "")), headers=headers)
        if name in ("Fetch", "List", "ListNamespaces"):
            return self.http.get(path, params=fields, headers=headers)
        return self.http.post(path, json=fields, headers=headers)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("grpc")
    create_index(CreateSettings(index=str(folder / "articles"), encoder=ENCODER))
    lines = [
        keys.line(KEY, "clients", "write"),
        keys.line(READ_KEY, "readers"),
        keys.line(OTHER_KEY, "others", "write", indexes=["movies"]),
        keys.line(ACME_KEY, "acme", "write", namespace="acme/eu 1"),
        keys.line(EVIL_KEY, "evil", "write", namespace="evil"),
    ]
    (folder / "keys.txt").write_text("\n".join(lines) + "\n")
    port, options = free_port(), {"reranker": RERANKER, "api_keys_file": str(folder / "keys.txt")}
    with (
        serving_locally(folder / "articles", grpc_port=port, **options) as url,
        httpx.Client(base_url=url, headers={"api-key": KEY}, timeout=PATIENCE_S) as http,
        grpc_client(port, KEY) as client,
    ):
        served = Served(http, client, port)
        content = passages(60)
        made = vectors_of([passage.content for passage in content], "passage")
        vectors = [
            {"id": passage.id, "values": vector.tolist(), "metadata": {**passage.metadata, "text": passage.text}}
            for passage, vector in zip(content, made, strict=True)
        ]
        assert client.ask("Upsert", {"vectors": vectors}) == {"upsertedCount": 60}
        wait_until(lambda: len(ids_of(served, "")) == len(content))
        yield served


def without_defaults(value: Any) -> Any:
    """What a message says: fields that have their default are not in it, and numbers of vectors have 32 bits."""
    if isinstance(value, dict):
        members = {name: without_defaults(each) for name, each in value.items()}
        return {name: each for name, each in members.items() if each not in (None, "", 0, [], {})}
    if isinstance(value, list):
        return [without_defaults(each) for each in value]
    return value


def check_same(over_grpc: Any, over_http: Any) -> None:
    """Numbers are compared as those of 32 bits."""
    if isinstance(over_http, dict):
        assert over_grpc.keys() == over_http.keys()
        for name, value in over_http.items():
            check_same(over_grpc[name], value)
    elif isinstance(over_http, list):
        assert len(over_grpc) == len(over_http)
        for one, other in zip(over_grpc, over_http, strict=True):
            check_same(one, other)
    elif isinstance(over_http, float):
        assert math.isclose(over_grpc, over_http, rel_tol=1e-6, abs_tol=1e-7)
    else:
        assert over_grpc == over_http


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Query", {"vector": VECTOR, "topK": 25}),
        ("Query", {"vector": VECTOR, "topK": 5, "includeMetadata": True, "includeValues": True}),
        ("Query", {"id": "p8", "topK": 3, "namespace": "__default__", "filter": {"number": {"$gte": 30}}}),
        ("Query", {"id": "p8", "topK": 3, "filter": {"$or": [{"number": {"$in": [1, 2]}}, {"number": 40}]}}),
        ("Query", {"id": "none", "topK": 3}),
        ("Query", {"id": "p8", "topK": 3, "namespace": "movies"}),
        ("Query", {"vector": VECTOR, "topK": 3, "namespace": "movies"}),
        ("Fetch", {"ids": ["p8"], "namespace": "movies"}),
        ("List", {"namespace": "movies"}),
        ("Fetch", {"ids": ["p3", "none", "p8", "p3"]}),
        ("FetchByMetadata", {"filter": {"number": {"$lt": 7}}}),
        ("FetchByMetadata", {"filter": {"number": {"$lt": 7}}, "limit": 3, "namespace": "__default__"}),
        ("FetchByMetadata", {"filter": {"number": 7}, "namespace": "movies"}),
        ("ListNamespaces", {}),
        ("ListNamespaces", {"prefix": "m", "limit": 3}),
        ("DescribeNamespace", {"namespace": "__default__"}),
        ("List", {"prefix": "p1", "limit": 4}),
        ("List", {}),
        ("DescribeIndexStats", {}),
    ],
)
def test_answers_are_those_over_http(name: str, fields: dict[str, Any], served: Served) -> None:
    over_http = served.over_http(name, fields)
    assert over_http.status_code == 200, over_http.text
    check_same(without_defaults(served.grpc.ask(name, fields)), without_defaults(over_http.json()))


def test_pages_go_on_from_one_to_the_other(served: Served) -> None:
    first = served.grpc.ask("List", {"limit": 7})
    token = first["pagination"]["next"]
    rest = served.over_http("List", {"limit": 100, "paginationToken": token}).json()
    ids = [item["id"] for item in [*first["vectors"], *rest["vectors"]]]
    assert len(set(ids)) == len(ids) == 60


def test_a_page_of_a_filter_goes_on_over_either(served: Served) -> None:
    asked = {"filter": {"number": {"$gte": 50}}, "limit": 4}
    first = served.grpc.ask("FetchByMetadata", asked)
    going_on = {**asked, "paginationToken": first["pagination"]["next"]}
    over_http = served.over_http("FetchByMetadata", going_on).json()
    check_same(without_defaults(served.grpc.ask("FetchByMetadata", going_on)), without_defaults(over_http))
    assert sorted(first["vectors"]) == [f"p{number}" for number in range(50, 54)]
    assert list(over_http["vectors"]) == [f"p{number}" for number in range(54, 58)]


def test_a_namespace_is_described_and_deleted(served: Served) -> None:
    vectors = [{"id": name, "values": VECTOR} for name in ("a", "b")]
    assert served.grpc.ask("Upsert", {"vectors": vectors, "namespace": "films"}) == {"upsertedCount": 2}
    described = {"name": "films", "record_count": 2}
    wait_until(lambda: described in served.grpc.ask("ListNamespaces", {"prefix": "f"}).get("namespaces", []))
    assert served.grpc.ask("DescribeNamespace", {"namespace": "films"}) == described
    assert served.grpc.ask("DeleteNamespace", {"namespace": "films"}) == {}
    wait_until(lambda: not served.grpc.ask("ListNamespaces", {"prefix": "f"}).get("namespaces"))
    assert served.grpc.refused("DescribeNamespace", {"namespace": "films"})[0] is grpc.StatusCode.NOT_FOUND
    assert served.grpc.ask("DescribeIndexStats", {})["totalVectorCount"] == 60


def test_what_is_written_over_one_is_read_over_the_other(served: Served) -> None:
    metadata = {"text": "a red fish", "year": 2020, "price": 2.5, "new": True, "tags": ["a", "b"]}
    upserted = {"vectors": [{"id": name, "values": VECTOR, "metadata": metadata} for name in ("g1", "g2", "g3")]}
    assert served.grpc.ask("Upsert", upserted) == {"upsertedCount": 3}
    assert served.over_http("Upsert", {"vectors": [{**upserted["vectors"][0], "id": "h1"}]}).status_code == 200
    wait_until(lambda: ids_of(served, "g") == ["g1", "g2", "g3"] and ids_of(served, "h") == ["h1"])
    fetched = served.over_http("Fetch", {"ids": ["g1", "h1"]}).json()["vectors"]
    assert fetched["g1"]["metadata"] == fetched["h1"]["metadata"] == metadata
    assert fetched["g1"]["values"] == fetched["h1"]["values"]
    assert isinstance(fetched["g1"]["metadata"]["year"], int)
    assert served.grpc.ask("Update", {"id": "g1", "setMetadata": {"year": 2021}}) == {"matchedRecords": 1}
    assert served.grpc.ask("Update", {"id": "none", "setMetadata": {"year": 2021}}) == {}
    wait_until(lambda: served.over_http("Fetch", {"ids": ["g1"]}).json()["vectors"]["g1"]["metadata"]["year"] == 2021)
    assert served.grpc.ask("Delete", {"ids": ["g1", "h1", "none"]}) == {}
    wait_until(lambda: ids_of(served, "g") == ["g2", "g3"])
    assert served.grpc.ask("Delete", {"filter": {"year": {"$eq": 2020}}}) == {}
    wait_until(lambda: ids_of(served, "g") == [])
    assert served.grpc.ask("DescribeIndexStats", {})["totalVectorCount"] == 60


def ids_of(served: Served, prefix: str) -> list[str]:
    return [item["id"] for item in served.grpc.ask("List", {"prefix": prefix}).get("vectors", ())]


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask until what was written is seen."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "what was written is not seen"


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("Query", {"vector": VECTOR}),
    ("Query", {"topK": 3}),
    ("Query", {"vector": VECTOR, "id": "p8", "topK": 3}),
    ("Query", {"vector": VECTOR[:9], "topK": 3}),
    ("Query", {"vector": [0.0] * 64, "topK": 3}),
    ("Query", {"id": "p8", "topK": 100_000}),
    ("Query", {"id": "p8", "topK": 3, "namespace": "a\n"}),
    ("Query", {"id": "p8", "topK": 3, "sparseVector": {"indices": [1], "values": [1.0]}}),
    ("Query", {"id": "p8", "topK": 3, "scanFactor": 2.0}),
    ("Query", {"id": "p8", "topK": 3, "maxCandidates": 7}),
    ("Query", {"id": "p8", "topK": 3, "filter": {"genre": "drama"}}),
    ("Query", {"id": "p8", "topK": 3, "filter": {"number": {"$near": 3}}}),
    ("Query", {"id": "x" * 5000, "topK": 3}),
    ("Fetch", {"ids": [f"p{number}" for number in range(1001)]}),
    ("Fetch", {"ids": ["p8"], "namespace": "x" * 257}),
    ("FetchByMetadata", {}),
    ("FetchByMetadata", {"filter": {}}),
    ("FetchByMetadata", {"filter": {"genre": "drama"}}),
    ("FetchByMetadata", {"filter": {"number": 1}, "limit": 100_000}),
    ("FetchByMetadata", {"filter": {"number": 1}, "paginationToken": "made up"}),
    ("ListNamespaces", {"limit": 100_000}),
    ("ListNamespaces", {"paginationToken": "made up"}),
    ("DescribeNamespace", {"namespace": "nobody"}),
    ("DeleteNamespace", {}),
    ("List", {"limit": 100_000}),
    ("List", {"paginationToken": "made up"}),
    ("DescribeIndexStats", {"filter": {"number": 3}}),
    ("Upsert", {}),
    ("Upsert", {"vectors": [{"id": "a", "values": [1.0] * 8}]}),
    ("Upsert", {"vectors": [{"id": "x" * 5000, "values": VECTOR}]}),
    ("Upsert", {"vectors": [{"id": "a", "values": VECTOR, "metadata": {"nested": {"a": 1}}}]}),
    ("Upsert", {"vectors": [{"id": "a", "values": VECTOR}], "namespace": "a\n"}),
    ("Upsert", {"vectors": [{"id": f"a{number}", "values": [1.0]} for number in range(1001)]}),
    ("Update", {"setMetadata": {"year": 2020}}),
    ("Update", {"id": "p8", "filter": {"number": 3}, "dryRun": True}),
    ("Update", {"id": "p8", "setMetadata": {"text": "another"}}),
    ("Update", {"id": "p8", "setMetadata": {"year": 2020}, "namespace": "a\n"}),
    ("Delete", {"deleteAll": True, "namespace": "a\n"}),
    ("List", {"namespace": "a\n"}),
    ("Delete", {}),
    ("Delete", {"ids": ["a"], "deleteAll": True}),
    ("Delete", {"filter": {}}),
]


@pytest.mark.parametrize(("name", "fields"), WRONG, ids=[f"{name}-{at}" for at, (name, _) in enumerate(WRONG)])
def test_refusals_are_those_over_http(name: str, fields: dict[str, Any], served: Served) -> None:
    over_http = served.over_http(name, fields)
    status, message = served.grpc.refused(name, fields)
    assert (status.name, message) == (STATUSES[over_http.status_code], over_http.json()["message"])


@pytest.mark.parametrize("key", [None, "wrong", READ_KEY], ids=["none", "wrong", "of-a-reader"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_keys_are_those_over_http(call: Any, key: str | None, served: Served) -> None:
    fields: dict[str, Any] = {"ids": ["p8"]} if call.name in ("Fetch", "Delete") else {}
    over_http = served.over_http(call.name, fields, **{"api-key": key or ""})
    with grpc_client(served.port, key) as client:
        if key == READ_KEY and call.scope == "read" and over_http.status_code == 200:
            assert client.ask(call.name, fields)
            return
        status, message = client.refused(call.name, fields)
    assert (status.name, message) == (STATUSES[over_http.status_code], over_http.json()["message"])


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_key_for_another_index_is_good_for_nothing_here(call: Any, served: Served) -> None:
    sensible = {
        "Query": {"id": "p8", "topK": 1}, "Fetch": {"ids": ["p8"]}, "List": {}, "DescribeIndexStats": {},
        "Upsert": {"vectors": [{"id": "o1", "values": VECTOR}]}, "Update": {"id": "p8", "setMetadata": {"a": 1}},
        "Delete": {"deleteAll": True}, "FetchByMetadata": {"filter": {"number": 1}}, "ListNamespaces": {},
        "DescribeNamespace": {"namespace": "__default__"}, "DeleteNamespace": {"namespace": "__default__"},
    }  # fmt: skip
    with grpc_client(served.port, OTHER_KEY) as client:
        assert client.refused(call.name, sensible[call.name])[0] is grpc.StatusCode.NOT_FOUND
    assert served.grpc.ask("DescribeIndexStats", {})["totalVectorCount"] == 60


OWN = [{"id": name, "values": VECTOR, "metadata": {"text": "our zebra"}} for name in ("own", "p8")]
"""What a tenant writes; one of the ids is there in the default namespace too."""


@pytest.fixture
def acme(served: Served) -> Iterator[GrpcClient]:
    """A client with a key that is bound to a namespace, which holds `OWN`."""
    with grpc_client(served.port, ACME_KEY) as client:
        assert client.ask("Upsert", {"vectors": OWN}) == {"upsertedCount": 2}
        wait_until(lambda: len(client.ask("List", {}).get("vectors", ())) == 2)
        yield client
        assert client.ask("Delete", {"deleteAll": True}) == {}
        wait_until(lambda: served.grpc.ask("DescribeIndexStats", {})["totalVectorCount"] == 60)


@pytest.mark.parametrize("namespace", ["", "acme/eu 1"])
def test_a_key_that_is_bound_to_a_namespace_means_its_own(namespace: str, acme: GrpcClient, served: Served) -> None:
    own = {"namespace": namespace} if namespace else {}
    for client, fields in ((acme, own), (served.grpc, {"namespace": "acme/eu 1"})):
        assert [each["id"] for each in client.ask("List", fields)["vectors"]] == ["own", "p8"]
        matches = client.ask("Query", {"vector": VECTOR, "topK": 50, "includeMetadata": True, **fields})["matches"]
        assert sorted(match["id"] for match in matches) == ["own", "p8"]
        assert all(match["metadata"]["text"] == "our zebra" for match in matches)
        assert list(client.ask("Fetch", {"ids": ["p8", "p1"], **fields})["vectors"]) == ["p8"]
    stats = acme.ask("DescribeIndexStats", {})
    assert stats["namespaces"] == {"acme/eu 1": {"vectorCount": 2}}
    assert stats["totalVectorCount"] == 2
    everything = served.grpc.ask("DescribeIndexStats", {})
    assert everything["namespaces"] == {"": {"vectorCount": 60}, "acme/eu 1": {"vectorCount": 2}}
    assert everything["totalVectorCount"] == 62
    assert acme.ask("Update", {"id": "p8", "setMetadata": {"year": 2020}, **own}) == {"matchedRecords": 1}
    assert acme.ask("Update", {"id": "p1", "setMetadata": {"year": 2020}, **own}) == {}
    assert acme.ask("Delete", {"ids": ["p1", "own"], **own}) == {}
    wait_until(lambda: [each["id"] for each in acme.ask("List", own)["vectors"]] == ["p8"])
    assert len(ids_of(served, "")) == 60


TENANT_CALLS: dict[str, dict[str, Any]] = {
    "Query": {"id": "own", "topK": 9}, "Fetch": {"ids": ["own"]}, "List": {}, "Upsert": {"vectors": OWN},
    "Update": {"id": "own", "setMetadata": {"stolen": True}}, "Delete": {"deleteAll": True},
    "FetchByMetadata": {"filter": {"number": 1}}, "DescribeNamespace": {}, "DeleteNamespace": {},
}  # fmt: skip


def test_a_key_that_is_bound_to_another_namespace_sees_and_changes_nothing(acme: GrpcClient, served: Served) -> None:
    with grpc_client(served.port, EVIL_KEY) as evil:
        for namespace in ("acme/eu 1", "nobody"):
            for name, fields in TENANT_CALLS.items():
                asked = {**fields, "namespace": namespace}
                over_http = served.over_http(name, asked, **{"api-key": EVIL_KEY})
                assert over_http.status_code == 403
                assert evil.refused(name, asked) == (grpc.StatusCode.PERMISSION_DENIED, over_http.json()["message"])
        for name in ("Query", "Fetch", "List", "Update", "Delete"):
            answer = evil.ask(name, TENANT_CALLS[name])
            assert not answer.keys() - {"usage"}, answer
        assert not evil.ask("Query", {"vector": VECTOR, "topK": 9}).get("matches")
        stats = evil.ask("DescribeIndexStats", {})
        assert (stats["namespaces"], stats.get("totalVectorCount", 0)) == ({"": {}}, 0)
    assert [each["id"] for each in acme.ask("List", {})["vectors"]] == ["own", "p8"]
    assert "stolen" not in acme.ask("Fetch", {"ids": ["own"]})["vectors"]["own"]["metadata"]


@pytest.mark.parametrize(
    "method",
    [
        "/VectorService/CreateNamespace",
        "/VectorService/Nothing",
        "/vectorservice/Query",
        "/ray.serve.RayServeAPIService/ListApplications",
        "/ray.serve.RayServeAPIService/Healthz",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_there_is_nothing_else_on_the_port(method: str, served: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.grpc.channel.unary_unary(method)(b"", timeout=PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_who_has_no_key_is_refused_before_a_message_is_sent(served: Served) -> None:
    with grpc_client(served.port) as client:
        # A message that never comes: only a server that does not wait for it can answer.
        never: Iterator[bytes] = iter(lambda: time.sleep(PATIENCE_S) or b"", None)
        call = client.channel.stream_unary("/VectorService/Upsert").future(never, timeout=PATIENCE_S / 2)
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("size", "status", "message"),
    [
        (1_000_001, "INVALID_ARGUMENT", "the message is larger than 1000000 bytes"),
        (17 * 2**20, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_messages_have_a_bound(size: int, status: str, message: str, served: Served) -> None:
    refused = served.grpc.refused("Query", bytes(size))
    assert refused[0].name == status
    assert message in refused[1]


def test_packed_messages_are_not_unpacked(served: Served) -> None:
    """A message of 16 MiB could be one of 16 GiB."""
    status, message = served.grpc.refused("Query", bytes(2**20), compression=grpc.Compression.Gzip)
    assert (status.name, message) == ("UNIMPLEMENTED", "Compression algorithm 'gzip' is disabled.")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(value: float, served: Served) -> None:
    query = MESSAGES["QueryRequest"](vector=[value, *VECTOR[1:]], topK=3).SerializeToString()
    upsert = MESSAGES["UpsertRequest"]()
    upsert.vectors.add(id="nan", values=[value, *VECTOR[1:]])
    assert served.grpc.refused("Query", query)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert served.grpc.refused("Upsert", upsert.SerializeToString())[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert served.grpc.ask("Fetch", {"ids": ["nan"]}).get("vectors") is None


def test_whatever_bytes_are_sent_they_are_answered_or_refused(served: Served) -> None:
    """A message that makes sense, with some of its bytes changed."""
    chance = random.Random(17)
    sensible = {
        "Query": MESSAGES["QueryRequest"](vector=VECTOR, topK=3, namespace="n").SerializeToString(),
        "Upsert": MESSAGES["UpsertRequest"](vectors=[{"id": "f", "values": VECTOR}], namespace="n").SerializeToString(),
        "Delete": MESSAGES["DeleteRequest"](ids=["f"], namespace="n").SerializeToString(),
        "DeleteNamespace": MESSAGES["DeleteNamespaceRequest"](namespace="n").SerializeToString(),
        "Update": MESSAGES["UpdateRequest"](id="f", values=VECTOR, namespace="n").SerializeToString(),
        "Fetch": MESSAGES["FetchRequest"](ids=["f"], namespace="n").SerializeToString(),
        "DescribeIndexStats": MESSAGES["DescribeIndexStatsRequest"](filter={}).SerializeToString(),
        "DescribeNamespace": MESSAGES["DescribeNamespaceRequest"](namespace="n").SerializeToString(),
        "List": MESSAGES["ListRequest"](prefix="f", limit=3, paginationToken="t").SerializeToString(),
        "FetchByMetadata": MESSAGES["FetchByMetadataRequest"](namespace="n", limit=3).SerializeToString(),
        "ListNamespaces": MESSAGES["ListNamespacesRequest"](prefix="f", limit=3).SerializeToString(),
    }
    assert sensible.keys() == {call.name for call in CALLS}
    outcomes = set[str]()
    for name, message in sensible.items():
        for _ in range(25):
            changed = bytearray(message)
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            outcomes.add(served.grpc.outcome(name, bytes(changed[: chance.randint(1, len(changed))])))
    assert outcomes <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert len(outcomes) > 1


def test_many_calls_at_once_are_answered_or_told_to_wait(served: Served) -> None:
    query = MESSAGES["QueryRequest"](id="p8", topK=3).SerializeToString()
    with (
        grpc_client(served.port, KEY) as first,
        grpc_client(served.port, KEY) as second,
        ThreadPoolExecutor(2 * STREAMS) as threads,
    ):
        clients = [first, second] * STREAMS
        outcomes = set(threads.map(lambda client: client.outcome("Query", query), clients))
    assert outcomes <= {"OK", "RESOURCE_EXHAUSTED"}
    assert "OK" in outcomes
    assert served.grpc.ask("Query", {"id": "p8", "topK": 1})["matches"]


def test_what_a_client_waits_no_longer_for_is_given_up(served: Served) -> None:
    query = MESSAGES["QueryRequest"](id="p8", topK=3).SerializeToString()
    assert served.grpc.outcome("Query", query, timeout=0.001) == "DEADLINE_EXCEEDED"
    assert served.grpc.ask("Query", {"id": "p8", "topK": 1})["matches"]


def test_with_a_certificate_there_is_nothing_in_clear(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    port, options = free_port(), {"grpc_certificate": str(certificate), "grpc_key": str(key)}
    with serving_locally(publish_articles(tmp_path), reranker="none", grpc_port=port, **options):
        first = certificate.read_bytes()
        with grpc_client(port, credentials=grpc.ssl_channel_credentials(first)) as client:
            assert client.ask("DescribeIndexStats", {})["totalVectorCount"] == 60
        with grpc_client(port) as client:
            assert client.refused("DescribeIndexStats", {})[0] is grpc.StatusCode.UNAVAILABLE
        # It ends one day, and its successor is written in its place.
        write_certificate(tmp_path, "the next one")
        with grpc_client(port, credentials=grpc.ssl_channel_credentials(certificate.read_bytes())) as client:
            assert client.ask("DescribeIndexStats", {})["totalVectorCount"] == 60
        with grpc_client(port, credentials=grpc.ssl_channel_credentials(first)) as client:
            assert client.refused("DescribeIndexStats", {})[0] is grpc.StatusCode.UNAVAILABLE
