"""The Serve applications: what each deployment is called, how many replicas it has and what it is given.

`import_path` of a Serve config names a builder; its `args` are the fields of `EndpointSettings`, and those of
`ServeSettings` for services:

    serve.app:build_app       everything for one index in one application
    serve.app:build_endpoint  the HTTP endpoint alone, which is answered by applications beside it
    serve.app:build_services  what is behind an endpoint, for versions of one shape (`shoal.serving.plan.ServingShape`)

An endpoint finds services by their names: those of `shoal` are called `shoal-…`; and which index each of them serves
they tell themselves. So it has one application of services, at least, for each of its `further_indexes`. The indexes of
its `catalog` need none: each of its replicas serves them by itself.

The index version is no argument, but for services that are started before their version is current: changing an
argument restarts replicas, publishing a version does not.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve

from serve.dialects.base import Engine
from serve.local_indexes import CatalogIndexes
from serve.ray_adapters.grpc_ingress import GrpcIngress, make_grpc_server, serve_address
from serve.ray_adapters.metrics import ReplicaMeter
from serve.ray_adapters.services import OwnServices, ServeApplications
from serve.replicas.catalog_replica import CatalogOptions
from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import CatalogIngress, FurtherIndex, Ingress, IngressReplica
from serve.replicas.reranker import MAX_WAITING, RERANK_QUERIES, Reranker
from serve.replicas.shard import Retriever
from serve.versions.discovery import SERVICE_SETTINGS, ServiceAnnouncement, ServiceDiscovery
from serve.versions.planned_indexes import check_indexes, given_roots
from serve.web.access import check_exposure, is_loopback, shared_keys
from serve.web.api import create_api
from serve.web.exchanges import Exchanges
from serve.web.indexes import GivenIndexes, Indexes, IndexesAndCatalog
from serve.web.origins import LOOPBACK_NAMES
from shoal.errors import InvalidArgument
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.serving.index_name import named_roots
from shoal.serving.plan import ServingPlan, ServingShape, plan_serving, reads_seldom
from shoal.settings import CatalogSettings, EndpointSettings, ServeSettings

SettingsModel = TypeVar("SettingsModel", bound=ServeSettings)

NAME = "shoal"
"""Name of the application in Serve."""
CONTROL_REQUESTS = 64
"""Requests a replica accepts beside its searches: health, readiness, description, activation."""
STOP_SPARE_S = 5.0
"""Seconds for a replica to end, beside those in which it finishes what it is doing."""


def build_app(args: dict[str, Any] | ServeSettings) -> serve.Application:
    """Plan and wire the application that serves an index.

    Raises InvalidArgument for arguments that ServeSettings refuses, and what `plan_serving` finds.
    """
    settings = validated(args)
    return wire_endpoint(settings, plan_serving(settings) if settings.index else None)


def build_endpoint(args: dict[str, Any] | ServeSettings) -> serve.Application:
    """Wire the HTTP endpoint alone. Raises InvalidArgument."""
    return wire_endpoint(validated(args))


def build_services(args: dict[str, Any]) -> serve.Application:
    """Plan and wire what answers an endpoint from versions of one shape.

    Takes the argument `version` too: a published version of that shape, by default the current one. Raises as
    `build_app`, and NotFound for a version that is not published.
    """
    settings = _validated({name: value for name, value in args.items() if name != "version"}, ServeSettings)
    return wire_services(settings, plan_serving(settings, args.get("version")))


def wire_services(settings: ServeSettings, plan: ServingPlan) -> serve.Application:
    """Wire the services that were planned, for an endpoint beside them, which enters by their encoder."""
    settings = _anywhere(settings)
    # An endpoint beside them has none of them inside.
    settings = settings.model_copy(
        update={name: getattr(settings, name) or 1 for name in ("encoder_replicas", "retriever_replicas")}
    )
    shape = ServingShape.of(plan.manifest)
    announcement = ServiceAnnouncement(
        index=settings.index,
        shape=shape,
        shards=_shards(settings, shape),
        reranker=_reranker(settings, plan),
        reranker_kind=plan.reranker_kind,
        reranker_scale=plan.reranker_scale,
        service_settings=settings.model_dump(include=set(SERVICE_SETTINGS)),
    )
    return _encoder(settings, plan, announcement)


def wire_endpoint(
    settings: EndpointSettings, plan: ServingPlan | None = None, host: str | None = None
) -> serve.Application:
    """Wire the HTTP endpoint, with services of its own as planned, or without.

    Args:
        settings: Of the endpoint. Its further indexes are answered by applications beside it, whatever is planned, and
            those of its catalog by its replicas themselves.
        plan: The services of the default index; None leaves them to applications beside it too.
        host: The address that clients connect to; None for that of Serve's proxies.

    Raises:
        InvalidArgument: The settings contradict one another.
    """
    check_indexes(settings)
    settings = _anywhere(settings)

    def api() -> FastAPI:  # Serve takes functions for what makes an application, and nothing else
        return _api(settings, host)

    encodes = settings.catalog is not None or (plan is not None and not settings.encoder_replicas)
    searches = settings.catalog is not None or (plan is not None and not settings.retriever_replicas)
    gpus = settings.gpus_per_replica if encodes else _retriever_gpus(settings) if searches else 0
    # More than the ingress works on, so that it is the ingress that refuses; Serve's own refusals look like that too.
    ingress: Any = _deployment(
        settings,
        serve.ingress(api)(_replica_class(settings)),
        "ingress",
        num_replicas=settings.ingress_replicas,
        max_replicas_per_node=settings.replicas_per_node,
        max_ongoing_requests=2 * settings.max_requests + CONTROL_REQUESTS,
        max_queued_requests=settings.max_waiting,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options=_resources(settings, gpus=gpus),
    )
    catalog = _catalog(settings)
    if not settings.index:
        return cast(serve.Application, ingress.bind(settings, ReplicaMeter, catalog))
    application: serve.Application = ingress.bind(
        settings,
        _own_services(settings, plan).connect if plan is not None else None,
        ServiceDiscovery(settings.index, ServeApplications()).find_services,
        ReplicaMeter,
        None if settings.grpc_port is None else partial(make_grpc_server, settings, host),
        _further_indexes(settings),
        catalog=catalog,
    )
    return application


def _replica_class(settings: EndpointSettings) -> type[IngressReplica]:
    if not settings.index:
        return CatalogIngress
    return Ingress if settings.grpc_port is None else GrpcIngress


def _catalog(settings: EndpointSettings) -> CatalogOptions | None:
    """What the replicas need to know of the catalog; None without one."""
    if settings.catalog is None:
        return None
    of_all = settings.part(ServeSettings, index=settings.index or settings.catalog)
    return CatalogOptions(of_all, settings.part(CatalogSettings), given_roots(settings))


def _further_indexes(settings: EndpointSettings) -> list[FurtherIndex]:
    """The indexes beside the default one. Raises InvalidArgument where two have one name."""
    _, *roots = named_roots([settings.index, *settings.further_indexes]).values()
    return [
        FurtherIndex(
            settings.part(ServeSettings, index=root), ServiceDiscovery(root, ServeApplications()).find_services
        )
        for root in roots
    ]


def _api(settings: EndpointSettings, host: str | None) -> FastAPI:
    """The HTTP application of an ingress replica, made within it."""
    keys = shared_keys(settings.api_keys_file, 1 / settings.ingress_replicas)
    host = host or serve_address()
    check_exposure(host, keyed=keys is not None, anonymous=settings.anonymous)
    hosts = settings.allowed_hosts if keys is not None else [*LOOPBACK_NAMES, host, *(settings.allowed_hosts or ())]
    return create_api(
        _indexes(settings),
        settings,
        keys=keys,
        keyless_writes=is_loopback(host),
        hosts=hosts,
        exchanges=_exchanges,
        adds_request_id=False,
    )


def _indexes(settings: EndpointSettings) -> Callable[[], Engine] | Indexes:
    """What answers in this replica: for the one index, or for each."""
    if not settings.further_indexes and settings.catalog is None:
        return _engine
    names = list(named_roots(given_roots(settings)))
    given = GivenIndexes(lambda: _ingress().engines, names, lambda: _ingress().ready()) if names else None
    if settings.catalog is None:
        assert given is not None
        return Indexes(given)
    return Indexes(IndexesAndCatalog(given, _catalog_indexes, lambda: _ingress().ready()))


def _catalog_indexes() -> CatalogIndexes:
    """The indexes of the catalog in the ingress replica that this is."""
    catalog = _ingress().catalog
    assert catalog is not None
    return catalog.indexes


def _ingress() -> IngressReplica:
    """The ingress replica that this is."""
    ingress: IngressReplica = serve.get_replica_context().servable_object
    return ingress


def _engine() -> Engine:
    """The ingress replica that this is, as the engine of its default index."""
    ingress = _ingress()
    assert isinstance(ingress, Ingress)
    return ingress


def _exchanges() -> Exchanges:
    """Those of the ingress replica that this is."""
    return _ingress().exchanges


def _own_services(settings: ServeSettings, plan: ServingPlan) -> OwnServices:
    shape = ServingShape.of(plan.manifest)
    return OwnServices(
        settings=settings,
        shape=shape,
        encoder=_encoder(settings, plan) if settings.encoder_replicas else plan.encoder,
        shards=_shards(settings, shape) if settings.retriever_replicas else None,
        reranker=plan.reranker if _has_spare_reranker(settings, plan) else _reranker(settings, plan),
        reranker_kind=plan.reranker_kind,
        reranker_scale=plan.reranker_scale,
    )


def _has_spare_reranker(settings: ServeSettings, plan: ServingPlan) -> bool:
    """Whether the ingress has the reranker inside, beside the encoder: one that is seldom asked needs no pool."""
    alone = not settings.encoder_replicas and settings.reranker_max_replicas == 1
    return alone and reads_seldom(settings, plan.manifest)


def _encoder(
    settings: ServeSettings, plan: ServingPlan, announcement: ServiceAnnouncement | None = None
) -> serve.Application:
    deployment = _deployment(
        settings,
        QueryEncoder,
        "encoder",
        num_replicas=settings.encoder_replicas,
        max_replicas_per_node=settings.replicas_per_node,
        max_ongoing_requests=CONTROL_REQUESTS,
        max_queued_requests=settings.max_waiting,
        ray_actor_options=_resources(settings, gpus=settings.gpus_per_replica),
    )
    application: serve.Application = deployment.bind(
        plan.encoder, plan.manifest.encoder, settings.query_cache, ReplicaMeter, announcement
    )
    return application


def _shards(settings: ServeSettings, shape: ServingShape) -> list[Any]:
    return [
        _deployment(
            settings,
            Retriever,
            layout.shard_name(shard),
            num_replicas=settings.retriever_replicas,
            max_replicas_per_node=settings.replicas_per_node,
            max_ongoing_requests=CONTROL_REQUESTS,
            max_queued_requests=settings.max_waiting,
            ray_actor_options=_resources(settings, gpus=_retriever_gpus(settings)),
        ).bind(settings, shard, ReplicaMeter, shape)
        for shard in range(shape.shards)
    ]


def _reranker(settings: ServeSettings, plan: ServingPlan) -> Any:
    """The deployment of the reranker, None if there is none."""
    if plan.reranker is None:
        return None
    return _deployment(
        settings,
        Reranker,
        "reranker",
        # More than its queue holds, so that the queue refuses, which knows what can still be done in time.
        max_ongoing_requests=5 * RERANK_QUERIES + CONTROL_REQUESTS,
        max_queued_requests=settings.max_waiting,
        ray_actor_options=_resources(settings, gpus=settings.gpus_per_replica),
        **_reranker_replicas(settings),
    ).bind(plan.reranker, MAX_WAITING, ReplicaMeter)


def validated(args: dict[str, Any] | ServeSettings) -> EndpointSettings:
    """Return the arguments as settings. Raises InvalidArgument that names every argument at fault."""
    return args.part(EndpointSettings) if isinstance(args, ServeSettings) else _validated(args, EndpointSettings)


def _validated(args: dict[str, Any], model: type[SettingsModel]) -> SettingsModel:
    try:
        return model.model_validate(args)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc'])) or 'args'}: {problem['msg']}" for problem in error.errors()]
        raise InvalidArgument("serve.app:build_app: " + "; ".join(problems)) from None


def _anywhere(settings: SettingsModel) -> SettingsModel:
    """The settings as replicas need them, which may run in another folder."""
    names = ("api_keys_file", "blend", "log_dir", "grpc_certificate", "grpc_key")
    folders = {name: absolute(path) for name in names if (path := getattr(settings, name))}
    places: dict[str, Any] = {"index": Storage(settings.index).uri} if settings.index else {}
    if isinstance(settings, EndpointSettings):
        if settings.catalog is not None:
            places["catalog"] = Storage(settings.catalog).uri
        places["further_indexes"] = [Storage(root).uri for root in settings.further_indexes]
    return settings.model_copy(update=places | folders)


def absolute(path: str) -> str:
    """The path from the root of this machine."""
    return str(Path(path).expanduser().absolute())


def _deployment(settings: ServeSettings, cls: type, name: str, **options: Any) -> serve.Deployment:
    inner = name != "ingress"
    return serve.deployment(
        cls,
        name=name,
        health_check_period_s=settings.health_check_period_s,
        health_check_timeout_s=settings.health_check_timeout_s,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.drain_s + STOP_SPARE_S,
        max_constructor_retry_count=3,
        logging_config={
            "enable_access_log": not inner,
            "encoding": settings.log_format.upper(),
            "log_level": settings.log_level,
            "logs_dir": settings.log_dir,
        },
        **options,
    )


def _retriever_gpus(settings: ServeSettings) -> float:
    return settings.gpus_per_replica if settings.retriever_device == "cuda" else 0


def _resources(settings: ServeSettings, gpus: float = 0) -> dict[str, float]:
    return {"num_cpus": settings.cpus_per_replica, "num_gpus": gpus}


def _reranker_replicas(settings: ServeSettings) -> dict[str, Any]:
    low, high = settings.reranker_min_replicas, settings.reranker_max_replicas
    if low == high:
        return {"num_replicas": low}
    return {
        "autoscaling_config": {
            "min_replicas": low,
            "initial_replicas": low,
            "max_replicas": high,
            # Queries: what fills one batch. The pool grows as soon as queries wait for a second one.
            "target_ongoing_requests": RERANK_QUERIES,
            "metrics_interval_s": 1,
            "look_back_period_s": 5,
            "upscale_delay_s": 3,
            "downscale_delay_s": settings.reranker_idle_s,
        }
    }
