"""The applications of services that `shoal serve` starts beside its endpoint, and what it asks that."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from ray import serve

from serve.app import NAME, wire_services
from serve.ray_adapters.statuses import application_statuses
from serve.versions.planned_indexes import PlannedIndex
from serve.versions.service_sets import ServiceSets
from shoal import errors
from shoal.errors import ShoalError
from shoal.serving.plan import ServingPlan
from shoal.settings import ServeSettings

ANSWER_S = 5.0
"""Seconds that an answer of the endpoint may take."""


class ServiceApplications:
    """The applications that serve an index, by their numbers.

    Args:
        settings: Of the server, with the root of the index.
        loop: The one of all calls; Serve ties its handles to the loop of the caller (`private_ray`), and keeps them.
        index: The name of the index; None for the default one.
    """

    def __init__(self, settings: ServeSettings, loop: asyncio.Runner, index: str | None = None) -> None:
        self._settings = settings
        self._loop = loop
        self._index = index

    def name(self, number: int) -> str:
        """The name of one in Serve: `shoal-1`, and `shoal-birds-1` where it serves a further index."""
        return f"{NAME}-{number}" if self._index is None else f"{NAME}-{self._index}-{number}"

    def start(self, number: int, plan: ServingPlan) -> None:
        """Start services as planned, and wait for nothing."""
        target = serve.RunTarget(wire_services(self._settings, plan), name=self.name(number), route_prefix=None)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def end(self, number: int) -> None:
        """End services, and wait for nothing."""
        serve.delete(self.name(number), _blocking=False)

    def failed(self, number: int) -> str | None:
        """Say why services cannot start; None while they may."""
        problem = deployment_problem(self.name(number))
        return None if problem is None else problem.message

    def served_version(self) -> str | None:
        """The version that an ingress replica answers from, None if it does not say, or not the one that it should."""
        asked = ("describe",) if self._index is None else ("describe_index", self._index)
        description = ask(self._loop, *asked)
        return None if description is None or description.problem else str(description.version)


def start_services(planned: Sequence[PlannedIndex], loop: asyncio.Runner, inside: bool) -> Callable[[], None]:
    """Start the services of each index, and return what looks after them, which never raises.

    Args:
        planned: The indexes, the default one first.
        loop: The one of all calls to Serve.
        inside: The endpoint serves the first version of the default index by itself.
    """
    sets = []
    for each in planned:
        applications = ServiceApplications(each.settings, loop, each.name)
        sets.append(
            ServiceSets(
                each.settings,
                each.plan,
                applications.start,
                applications.end,
                applications.failed,
                applications.served_version,
                inside=inside and each.name is None,
                name=each.name,
            )
        )

    def follow() -> None:
        for services in sets:
            services.follow()

    return follow


def ask(loop: asyncio.Runner, method: str, *arguments: Any) -> Any:
    """What a method of an ingress replica returns; None while it is starting, or too busy."""

    async def answer() -> Any:
        async with asyncio.timeout(ANSWER_S):
            return await getattr(serve.get_app_handle(NAME), method).remote(*arguments)

    try:
        return loop.run(answer())
    except Exception:
        return None


def deployment_problem(name: str | None = None) -> ShoalError | None:
    """Why an application cannot start, or any, as the error that a replica raised; None while it may still start."""
    failed = [
        application
        for application in application_statuses()
        if application.app_status.status.value == "DEPLOY_FAILED" and name in (None, application.name)
    ]
    if not failed:
        return None
    messages = [*(status.message for status in failed[0].deployment_statuses), failed[0].app_status.message]
    text = "\n".join(messages)
    for kind, message in re.findall(r"^(?:shoal\.errors\.)?([A-Z]\w+): (.+)$", text, re.MULTILINE):
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, ShoalError):
            return known(message)
    return ShoalError(f"the application cannot start: {text}")
