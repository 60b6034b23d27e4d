"""The Serve application: what each deployment is called, how many replicas it has and what it is given.

`import_path: serve.app:build_app` of a Serve config; its `args` are the fields of `ServeSettings`. The index version is
not one of them: changing an argument restarts replicas, publishing a version does not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from serve.access import KeyRing, check_exposure
from serve.api import create_api
from serve.deployments import RERANK_QUERIES, Ingress, QueryEncoder, Reranker, Retriever
from serve.handles import EncoderHandle, RerankerHandle, ShardHandle
from serve.metrics import ReplicaMeter
from shoal import layout
from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.proxies import LOOPBACK
from shoal.serving import Serving, plan_serving
from shoal.settings import EncoderSettings, ServeSettings
from shoal.storage import Storage

NAME = "shoal"
"""Name of the application in Serve."""
CONTROL_REQUESTS = 64
"""Requests a replica accepts beside its searches: health, readiness, description, activation."""


def build_app(args: dict[str, Any] | ServeSettings) -> serve.Application:
    """Plan and wire the application that serves an index.

    Raises InvalidArgument for arguments that ServeSettings refuses, and what `plan_serving` finds.
    """
    settings = validated(args)
    return wire(settings, plan_serving(settings))


def wire(settings: ServeSettings, plan: Serving) -> serve.Application:
    """Wire the application that was planned."""
    # Replicas may run in another folder.
    folders = {name: absolute(path) for name in ("api_keys_file", "log_dir") if (path := getattr(settings, name))}
    settings = settings.model_copy(update={"index": Storage(settings.index).uri, **folders})

    # What the ingress is not given a handle for, it makes itself.
    encoder: Any = plan.encoder
    if settings.encoder_replicas:
        encoder = _deployment(
            settings,
            QueryEncoder,
            "encoder",
            num_replicas=settings.encoder_replicas,
            max_ongoing_requests=CONTROL_REQUESTS,
            max_queued_requests=settings.max_waiting,
            ray_actor_options=_resources(settings, gpus=settings.gpus_per_replica),
        ).bind(plan.encoder, plan.manifest.encoder, settings.query_cache, ReplicaMeter)
    shards: list[Any] = [shard.shard for shard in plan.manifest.shards]
    if settings.retriever_replicas:
        shards = [
            _deployment(
                settings,
                Retriever,
                layout.shard_name(number),
                num_replicas=settings.retriever_replicas,
                max_ongoing_requests=CONTROL_REQUESTS,
                max_queued_requests=settings.max_waiting,
                ray_actor_options=_resources(settings),
            ).bind(settings, number, ReplicaMeter)
            for number in shards
        ]
    reranker = None
    if plan.reranker is not None:
        reranker = _deployment(
            settings,
            Reranker,
            "reranker",
            # More than its queue holds, so that the queue refuses, which knows what can still be done in time.
            max_ongoing_requests=5 * RERANK_QUERIES + CONTROL_REQUESTS,
            max_queued_requests=settings.max_waiting,
            ray_actor_options=_resources(settings, gpus=settings.gpus_per_replica),
            **_reranker_replicas(settings),
        ).bind(plan.reranker, 4 * RERANK_QUERIES, ReplicaMeter)

    def api() -> FastAPI:
        keys = KeyRing.of(settings.api_keys_file, share=1 / settings.ingress_replicas)
        client = _get_global_client()
        assert client is not None
        check_exposure(client.http_config.host or LOOPBACK[0], keyed=keys is not None, anonymous=settings.anonymous)
        engine = lambda: serve.get_replica_context().servable_object  # noqa: E731
        return create_api(engine, settings, keys=keys, adds_request_id=False)

    # More than the ingress works on, so that it is the ingress that refuses; Serve's own refusals look like that too.
    server: Any = _deployment(
        settings,
        serve.ingress(api)(Server),
        "ingress",
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=2 * settings.max_requests + CONTROL_REQUESTS,
        max_queued_requests=settings.max_waiting,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options=_resources(settings, gpus=0 if settings.encoder_replicas else settings.gpus_per_replica),
    )
    application: serve.Application = server.bind(settings, plan.manifest.encoder, encoder, shards, reranker)
    return application


class Server(Ingress):
    """The ingress of the application: an Ingress whose services are the other deployments.

    encoder, shards: their handles or, for those that this replica has inside, the settings and the numbers.
    """

    def __init__(
        self,
        settings: ServeSettings,
        expected: Fingerprint,
        encoder: DeploymentHandle | EncoderSettings,
        shards: Sequence[DeploymentHandle | int],
        reranker: DeploymentHandle | None,
    ) -> None:
        meter = ReplicaMeter()
        super().__init__(
            settings,
            expected,
            QueryEncoder(encoder, expected, settings.query_cache, lambda: meter)
            if isinstance(encoder, EncoderSettings)
            else EncoderHandle(encoder),
            [
                Retriever(settings, shard, lambda: meter) if isinstance(shard, int) else ShardHandle(shard, number)
                for number, shard in enumerate(shards)
            ],
            RerankerHandle(reranker) if reranker is not None else None,
            lambda: meter,
        )


def validated(args: dict[str, Any] | ServeSettings) -> ServeSettings:
    """Return the arguments as settings. Raises InvalidArgument that names every argument at fault."""
    try:
        return ServeSettings.model_validate(args)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc'])) or 'args'}: {problem['msg']}" for problem in error.errors()]
        raise InvalidArgument("serve.app:build_app: " + "; ".join(problems)) from None


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
