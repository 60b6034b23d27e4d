"""Pinecone's data plane over gRPC from a server on Ray: two ingress replicas share its port."""

from contextlib import ExitStack
from pathlib import Path

import grpc
from pinecone.grpc import GrpcIndex
from ray import serve

from serve.app import NAME
from shoal.serving import keys
from tests.support.grpc_client import grpc_client
from tests.support.indexes import passages, publish
from tests.support.serving import free_port, local_ray, serving

KEY = keys.make()
CONNECTIONS = 16


def test_it_answers_from_all_replicas_with_the_keys_of_http(tmp_path: Path) -> None:
    publish(tmp_path / "articles", "v1", passages(60))
    (tmp_path / "keys.txt").write_text(keys.line(KEY, "clients") + "\n")
    port = free_port()
    options = {"reranker": "none", "ingress_replicas": 2, "api_keys_file": str(tmp_path / "keys.txt")}
    with (
        local_ray(),
        serving(tmp_path / "articles", grpc_port=port, **options) as http,
        ExitStack() as stack,
    ):
        with GrpcIndex(host=f"http://127.0.0.1:{port}", api_key=KEY, grpc_scheme="http") as index:
            matches = index.query(id="p8", top_k=5, include_metadata=True).matches
        body = {"id": "p8", "topK": 5, "includeMetadata": True}
        expected = http.post("/i/articles/query", json=body, headers={"api-key": KEY}).json()["matches"]
        assert [match.id for match in matches] == [match["id"] for match in expected]
        assert [match.metadata for match in matches] == [match["metadata"] for match in expected]

        # Each connection goes to one of the replicas; with 16 of them, one in 30,000 runs would miss one.
        clients = [stack.enter_context(grpc_client(port, KEY)) for _ in range(CONNECTIONS)]
        for client in clients:
            assert client.ask("Query", {"id": "p8", "topK": 1})["matches"][0]["id"] == "p8"
        with grpc_client(port) as stranger:
            assert stranger.refused("DescribeIndexStats", {})[0] is grpc.StatusCode.UNAUTHENTICATED
            method = "/ray.serve.RayServeAPIService/ListApplications"
            call = stranger.channel.unary_unary(method).future(b"")
            assert call.code() is grpc.StatusCode.UNIMPLEMENTED

        serve.delete(NAME)
        with grpc_client(port, KEY) as late:
            assert late.refused("DescribeIndexStats", {})[0] is grpc.StatusCode.UNAVAILABLE
