"""What the Serve applications are made of; nothing is started."""

from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray.dag.py_obj_scanner import _PyObjScanner

from serve.app import STOP_SPARE_S, build_app, build_endpoint, build_services
from serve.replicas.ingress import CatalogIngress
from shoal.errors import InvalidArgument
from shoal.index_root.storage import Storage
from shoal.settings import LateSettings
from tests.support.indexes import passages, publish


def deployments(application: serve.Application) -> dict[str, serve.Deployment]:
    """Every deployment of an application, by its name."""
    found, todo = {}, [application]
    while todo:
        bound = todo.pop()._bound_deployment
        found[bound.name] = bound
        scanner = _PyObjScanner(serve.Application)
        todo += scanner.find_nodes((bound.init_args, bound.init_kwargs))
        scanner.clear()
    return found


@pytest.mark.parametrize("seconds", [0.0, 45.0])
def test_a_replica_that_is_replaced_has_time_to_finish(seconds: float, tmp_path: Path) -> None:
    publish(tmp_path, "v1", passages(20))
    own = {"encoder_replicas": 1, "retriever_replicas": 1, "reranker": "overlap"}
    built = deployments(build_app({"index": str(tmp_path), "drain_s": seconds, **own}))
    assert built.keys() == {"ingress", "encoder", "shard-00000", "shard-00001", "reranker"}
    for deployment in built.values():
        assert deployment._deployment_config.graceful_shutdown_timeout_s == seconds + STOP_SPARE_S


@pytest.mark.parametrize(
    ("stored", "args", "has_pool"),
    [
        (True, {}, False),
        (True, {"ingress_replicas": 2}, False),
        (False, {}, True),
        (True, {"shortlist": 16}, True),
        (True, {"stored_tokens": False}, True),
        (True, {"reranker": "overlap"}, True),
        (True, {"reranker_max_replicas": 2}, True),
        (True, {"encoder_replicas": 1}, True),
    ],
)
def test_a_reranker_that_stored_tokens_leave_little_to_do_has_no_pool(
    stored: bool, args: dict[str, Any], has_pool: bool, tmp_path: Path
) -> None:
    publish(
        tmp_path, "v1", passages(20), late=LateSettings(late_interaction="stored", late_dims=16) if stored else None
    )
    built = deployments(build_app({"index": str(tmp_path), **args}))
    assert ("reranker" in built) == has_pool


def test_an_endpoint_knows_its_further_indexes_and_has_services_for_the_first_alone(tmp_path: Path) -> None:
    for name in ("articles", "birds"):
        publish(tmp_path / name, "v1", passages(20))
    own = {"encoder_replicas": 1, "retriever_replicas": 1, "reranker": "none"}
    roots = {"index": str(tmp_path / "articles"), "further_indexes": [str(tmp_path / "birds")]}
    built = deployments(build_app({**roots, **own}))
    assert built.keys() == {"ingress", "encoder", "shard-00000", "shard-00001"}
    (further,) = built["ingress"].init_args[-1]
    assert further.settings.index == Storage(str(tmp_path / "birds")).uri
    assert built["ingress"].init_kwargs == {"catalog": None}
    with pytest.raises(InvalidArgument, match="further_indexes"):
        build_services(roots)
    with pytest.raises(InvalidArgument, match="would both be the index 'birds'"):
        build_endpoint({"index": str(tmp_path / "birds"), "further_indexes": [str(tmp_path / "Birds")]})


def test_the_replicas_of_an_endpoint_serve_a_catalog_beside_its_indexes(tmp_path: Path) -> None:
    for name in ("articles", "birds"):
        publish(tmp_path / name, "v1", passages(20))
    roots = [str(tmp_path / name) for name in ("articles", "birds")]
    args = {"index": roots[0], "further_indexes": roots[1:], "catalog": str(tmp_path), "reranker": "none"}
    ingress = deployments(build_app({**args, "catalog_memory_mib": 64}))["ingress"]
    catalog = ingress.init_kwargs["catalog"]
    assert (catalog.limits.catalog, catalog.limits.catalog_memory_mib) == (str(tmp_path), 64)
    assert list(catalog.elsewhere) == roots
    assert catalog.settings.reranker == "none"


def test_shards_take_gpus_only_where_they_search_on_them(tmp_path: Path) -> None:
    publish(tmp_path, "v1", passages(20))
    args = {"index": str(tmp_path), "encoder_replicas": 1, "gpus_per_replica": 0.5, "reranker": "none"}
    for device, gpus in (("cpu", 0), ("cuda", 0.5)):
        on = {**args, "retriever_device": device}
        assert deployments(build_app(on))["ingress"].ray_actor_options["num_gpus"] == gpus  # it has the shards inside
        apart = deployments(build_app({**on, "retriever_replicas": 1}))
        assert apart["ingress"].ray_actor_options["num_gpus"] == 0
        assert apart["shard-00000"].ray_actor_options["num_gpus"] == gpus


def test_a_catalog_alone_is_served_without_services(tmp_path: Path) -> None:
    built = deployments(build_app({"catalog": str(tmp_path), "gpus_per_replica": 1, "ingress_replicas": 2}))
    assert built.keys() == {"ingress"}
    ingress = built["ingress"]
    replica: Any = ingress.func_or_class
    assert issubclass(replica, CatalogIngress)
    assert ingress.ray_actor_options["num_gpus"] == 1  # it has the encoders inside
    assert ingress.init_args[-1].limits.catalog == str(tmp_path)
    for build in (build_app, build_endpoint):
        with pytest.raises(InvalidArgument, match="over gRPC the default index is asked, and there is none"):
            build({"catalog": str(tmp_path), "grpc_port": 9000})
    with pytest.raises(InvalidArgument, match="no first one"):
        build_app({"catalog": str(tmp_path), "further_indexes": ["/birds"]})
    with pytest.raises(InvalidArgument, match="index: Field required"):
        build_app({})
