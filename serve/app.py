"""The Serve applications: what each deployment is called, how many replicas it has and what it is given.

`import_path` of a Serve config names a builder; its `args` are the fields of `ServeSettings`:

    serve.app:build_app       everything in one application
    serve.app:build_endpoint  the HTTP endpoint alone, which is answered by applications beside it
    serve.app:build_services  what is behind an endpoint, for versions of one shape (`shoal.serving.plan.Shape`)

An endpoint finds services by their names: those of `shoal` are called `shoal-…`. The index version is no argument, but
for services that are started before their version is current: changing an argument restarts replicas, publishing a
version does not.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from serve.ray_adapters.handles import RETRY_AFTER_S, EncoderHandle, RerankerHandle, ShardHandle, call
from serve.ray_adapters.metrics import ReplicaMeter
from serve.replicas.encoder import QueryEncoder
from serve.replicas.ingress import THEIRS, Ingress, Services
from serve.replicas.reranker import RERANK_QUERIES, Reranker
from serve.replicas.shard import Retriever
from serve.telemetry import Meter
from serve.web.access import KeyRing, check_exposure
from serve.web.api import create_api
from serve.web.origins import LOOPBACK_NAMES
from shoal.errors import InvalidArgument, Unavailable
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.serving.plan import Serving, Shape, plan_serving
from shoal.settings import EncoderSettings, ServeSettings
from shoal.system.proxies import LOOPBACK

logger = logging.getLogger("ray.serve")

NAME = "shoal"
"""Name of the application in Serve."""
CONTROLLER_S = 5.0
"""How long an endpoint waits for Serve's controller to name the applications, in seconds."""
LOOK_UP_S = 2.0
"""How long it waits for one of them to tell what it serves: less than a new endpoint has patience."""
CONTROL_REQUESTS = 64
"""Requests a replica accepts beside its searches: health, readiness, description, activation."""


def build_app(args: dict[str, Any] | ServeSettings) -> serve.Application:
    """Plan and wire the application that serves an index.

    Raises InvalidArgument for arguments that ServeSettings refuses, and what `plan_serving` finds.
    """
    settings = validated(args)
    return wire_endpoint(settings, plan_serving(settings))


def build_endpoint(args: dict[str, Any] | ServeSettings) -> serve.Application:
    """Wire the HTTP endpoint alone. Raises InvalidArgument."""
    return wire_endpoint(validated(args))


def build_services(args: dict[str, Any]) -> serve.Application:
    """Plan and wire what answers an endpoint from versions of one shape.

    Takes the argument `version` too: a published version of that shape, by default the current one. Raises as
    `build_app`, and NotFound for a version that is not published.
    """
    settings = validated({name: value for name, value in args.items() if name != "version"})
    return wire_services(settings, plan_serving(settings, args.get("version")))


def wire_services(settings: ServeSettings, plan: Serving) -> serve.Application:
    """Wire the services that were planned, for an endpoint beside them."""
    settings = _anywhere(settings)
    # An endpoint beside them has nothing of theirs inside.
    settings = settings.model_copy(
        update={name: getattr(settings, name) or 1 for name in ("encoder_replicas", "retriever_replicas")}
    )
    shape = Shape.of(plan.manifest)
    theirs = settings.model_dump(include=set(THEIRS))
    more = settings.index, shape, _shards(settings, shape), _reranker(settings, plan), plan.kind, theirs
    return _encoder(settings, plan, Entrance, *more)


def wire_endpoint(settings: ServeSettings, plan: Serving | None = None) -> serve.Application:
    """Wire the HTTP endpoint, with services of its own as planned, or without."""
    settings = _anywhere(settings)

    def api() -> FastAPI:
        keys = KeyRing.of(settings.api_keys_file, share=1 / settings.ingress_replicas)
        client = _get_global_client()
        assert client is not None
        host = client.http_config.host or LOOPBACK[0]
        check_exposure(host, keyed=keys is not None, anonymous=settings.anonymous)
        hosts = settings.allowed_hosts if keys is not None else [*LOOPBACK_NAMES, host, *(settings.allowed_hosts or ())]
        engine = lambda: serve.get_replica_context().servable_object  # noqa: E731
        return create_api(engine, settings, keys=keys, hosts=hosts, adds_request_id=False)

    encodes = plan is not None and not settings.encoder_replicas
    # More than the ingress works on, so that it is the ingress that refuses; Serve's own refusals look like that too.
    server: Any = _deployment(
        settings,
        serve.ingress(api)(Server),
        "ingress",
        num_replicas=settings.ingress_replicas,
        max_replicas_per_node=settings.replicas_per_node,
        max_ongoing_requests=2 * settings.max_requests + CONTROL_REQUESTS,
        max_queued_requests=settings.max_waiting,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options=_resources(settings, gpus=settings.gpus_per_replica if encodes else 0),
    )
    if plan is None:
        alone: serve.Application = server.bind(settings)
        return alone
    shape = Shape.of(plan.manifest)
    encoder = _encoder(settings, plan, QueryEncoder) if settings.encoder_replicas else plan.encoder
    whole: serve.Application = server.bind(
        settings,
        shape,
        encoder,
        _shards(settings, shape) if settings.retriever_replicas else None,
        _reranker(settings, plan),
        plan.kind,
    )
    return whole


def _encoder(settings: ServeSettings, plan: Serving, cls: type[QueryEncoder], *more: Any) -> serve.Application:
    deployment = _deployment(
        settings,
        cls,
        "encoder",
        num_replicas=settings.encoder_replicas,
        max_replicas_per_node=settings.replicas_per_node,
        max_ongoing_requests=CONTROL_REQUESTS,
        max_queued_requests=settings.max_waiting,
        ray_actor_options=_resources(settings, gpus=settings.gpus_per_replica),
    )
    application: serve.Application = deployment.bind(
        plan.encoder, plan.manifest.encoder, settings.query_cache, ReplicaMeter, *more
    )
    return application


def _shards(settings: ServeSettings, shape: Shape) -> list[Any]:
    return [
        _deployment(
            settings,
            Retriever,
            layout.shard_name(shard),
            num_replicas=settings.retriever_replicas,
            max_replicas_per_node=settings.replicas_per_node,
            max_ongoing_requests=CONTROL_REQUESTS,
            max_queued_requests=settings.max_waiting,
            ray_actor_options=_resources(settings),
        ).bind(settings, shard, ReplicaMeter, shape)
        for shard in range(shape.shards)
    ]


def _reranker(settings: ServeSettings, plan: Serving) -> Any:
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
    ).bind(plan.reranker, 4 * RERANK_QUERIES, ReplicaMeter)


@dataclass(frozen=True, slots=True)
class Entry:
    """What an application serves and how, and the handles of its shards and its reranker. Travels to the endpoint."""

    index: str
    shape: Shape
    shards: Sequence[DeploymentHandle]
    reranker: DeploymentHandle | None
    kind: str | None
    theirs: dict[str, Any]

    def services(self, encoder: DeploymentHandle) -> Services:
        """The services, together with their encoder."""
        return Services(
            self.shape,
            EncoderHandle(encoder),
            [ShardHandle(handle, number) for number, handle in enumerate(self.shards)],
            RerankerHandle(self.reranker) if self.reranker is not None else None,
            self.kind,
            self.theirs,
        )


class Entrance(QueryEncoder):
    """The query encoder of services, by which an endpoint enters: it tells what else belongs to them."""

    def __init__(
        self,
        settings: EncoderSettings,
        expected: Fingerprint,
        remembered: int,
        meter: Callable[[], Meter],
        index: str,
        shape: Shape,
        shards: list[DeploymentHandle],
        reranker: DeploymentHandle | None,
        kind: str | None,
        theirs: dict[str, Any],
    ) -> None:
        super().__init__(settings, expected, remembered, meter)
        self._entry = Entry(index, shape, shards, reranker, kind, theirs)

    async def look_up(self) -> Entry:
        """The services."""
        return self._entry


class Server(Ingress):
    """The ingress of the application: an Ingress whose services are other deployments, or parts of its own replica.

    shape: the versions that it serves itself; None if that is all left to applications beside it. encoder: its handle,
    or the settings of one inside this replica. shards: their handles; None puts them into this replica. kind: of the
    reranker.
    """

    def __init__(
        self,
        settings: ServeSettings,
        shape: Shape | None = None,
        encoder: DeploymentHandle | EncoderSettings | None = None,
        shards: Sequence[DeploymentHandle] | None = None,
        reranker: DeploymentHandle | None = None,
        kind: str | None = None,
    ) -> None:
        self._known: dict[str, Services] = {}
        meter = ReplicaMeter()
        own = None
        if shape is not None and encoder is not None:
            own = Services(
                shape,
                QueryEncoder(encoder, shape.encoder, settings.query_cache, lambda: meter)
                if isinstance(encoder, EncoderSettings)
                else EncoderHandle(encoder),
                [Retriever(settings, number, lambda: meter, shape) for number in range(shape.shards)]
                if shards is None
                else [ShardHandle(handle, number) for number, handle in enumerate(shards)],
                RerankerHandle(reranker) if reranker is not None else None,
                kind,
            )
        super().__init__(settings, own, self._beside, lambda: meter)

    async def _beside(self, shape: Shape) -> Services | None:
        """Services of this shape in an application beside this one, once its replicas have all been there.

        An ingress that serves nothing takes those too that have just been started. Those that are whole go before
        others, then the ones that it uses.
        """
        prefix = f"{serve.get_replica_context().app_name}-"
        states = {"RUNNING", "UNHEALTHY"} if self._pipeline else {"RUNNING", "UNHEALTHY", "DEPLOYING"}
        try:
            async with asyncio.timeout(CONTROLLER_S):  # Serve answers from its controller, and blocks for as long
                applications = (await asyncio.to_thread(serve.status)).applications
        except Exception as error:
            raise Unavailable("Serve's controller does not answer; try again", retry_after_s=RETRY_AFTER_S) from error
        names = [name for name, one in applications.items() if name.startswith(prefix) and one.status in states]
        self._known = {name: known for name, known in self._known.items() if name in applications}

        def rank(name: str) -> tuple[bool, bool]:
            return applications[name].status != "RUNNING", self._known.get(name) is not self._services

        for name in sorted(names, key=rank):
            if (known := await self._look_up(name)) and known.shape.fits(shape):
                return known
        return None

    async def _look_up(self, name: str) -> Services | None:
        """The services of an application, the same object as long as they stay what they are; None if it has none."""
        try:
            async with asyncio.timeout(LOOK_UP_S):
                encoder = await asyncio.to_thread(serve.get_app_handle, name)
                entry: Entry = await call(encoder, "look_up", deadline=time.time() + LOOK_UP_S)
            described = entry.shape, entry.kind, entry.theirs
        except Exception as error:  # one that is being built, or of older code, or something else, stops no other
            logger.info("%s tells of no services: %r", name, error)
            return None
        if entry.index != self._settings.index:
            return None
        known = self._known.get(name)
        if known is None or (known.shape, known.kind, known.theirs) != described:
            known = self._known[name] = entry.services(encoder)
        return known


def validated(args: dict[str, Any] | ServeSettings) -> ServeSettings:
    """Return the arguments as settings. Raises InvalidArgument that names every argument at fault."""
    try:
        return ServeSettings.model_validate(args)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc'])) or 'args'}: {problem['msg']}" for problem in error.errors()]
        raise InvalidArgument("serve.app:build_app: " + "; ".join(problems)) from None


def _anywhere(settings: ServeSettings) -> ServeSettings:
    """The settings as replicas need them, which may run in another folder."""
    folders = {name: absolute(path) for name in ("api_keys_file", "log_dir") if (path := getattr(settings, name))}
    return settings.model_copy(update={"index": Storage(settings.index).uri, **folders})


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
        graceful_shutdown_timeout_s=5,
        max_constructor_retry_count=3,
        logging_config={
            "enable_access_log": not inner,
            "encoding": settings.log_format.upper(),
            "log_level": settings.log_level,
            "logs_dir": settings.log_dir,
        },
        **options,
    )


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
