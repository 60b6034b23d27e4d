"""How an ingress finds services beside its own, over applications that are made up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve.versions.discovery import ServiceAnnouncement, ServiceDiscovery, ServiceSet, find_no_services
from shoal.encoders import load_encoder
from shoal.errors import Unavailable
from shoal.serving.plan import ServingShape
from shoal.settings import EncoderSettings

SHAPE = ServingShape(load_encoder(EncoderSettings(encoder="hashing:64")).fingerprint(), 1)
WIDE = replace(SHAPE, shards=3)
SETTINGS = {"reranker": "/trained", "retriever_replicas": 2}


def announcement(**changes: Any) -> ServiceAnnouncement:
    announced = ServiceAnnouncement("/nowhere", SHAPE, [object()], object(), "late_interaction", SETTINGS)
    return replace(announced, **changes)


class FakeApplications:
    """Applications with a status and an announcement each, or an error in its place."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.announced: dict[str, ServiceAnnouncement | Exception] = {}
        self.asked: list[str] = []

    def add(self, name: str, announced: ServiceAnnouncement | Exception, status: str = "RUNNING") -> None:
        self.states[name], self.announced[name] = status, announced

    async def statuses(self) -> dict[str, str]:
        return self.states

    async def look_up(self, name: str) -> tuple[ServiceAnnouncement, Callable[[], ServiceSet]]:
        self.asked.append(name)
        announced = self.announced[name]
        if isinstance(announced, Exception):
            raise announced
        services: Any = object()
        return announced, lambda: ServiceSet(
            announced.shape, services, [], None, announced.reranker_kind, announced.service_settings
        )


@pytest.fixture
def applications() -> FakeApplications:
    return FakeApplications()


@pytest.fixture
def discovery(applications: FakeApplications) -> ServiceDiscovery:
    return ServiceDiscovery("/nowhere", applications)


async def test_services_stay_the_same_object_as_long_as_they_stay_what_they_are(
    applications: FakeApplications, discovery: ServiceDiscovery
) -> None:
    applications.add("shoal-green", announcement())
    services = await discovery.find_services(SHAPE, None)
    assert services is not None
    assert (services.reranker_kind, services.service_settings) == ("late_interaction", SETTINGS)
    assert await discovery.find_services(SHAPE, None) is services
    applications.add("shoal-green", announcement(service_settings={**SETTINGS, "retriever_replicas": 4}))
    other = await discovery.find_services(SHAPE, services)
    assert other is not None
    assert other is not services
    assert await discovery.find_services(SHAPE, None) is other
    applications.add("shoal-green", announcement(index="/elsewhere"))
    assert await discovery.find_services(SHAPE, None) is None


async def test_services_of_another_shape_and_applications_that_announce_nothing_are_passed_over(
    applications: FakeApplications, discovery: ServiceDiscovery
) -> None:
    older: Any = None  # an encoder that belongs to an endpoint announces nothing
    applications.add("shoal-a", RuntimeError("of code that has no look_up"))
    applications.add("shoal-b", older)
    applications.add("shoal-c", announcement(shape=WIDE))
    assert await discovery.find_services(SHAPE, None) is None
    found = await discovery.find_services(WIDE, None)
    assert found is not None
    assert found.shape == WIDE


async def test_an_ingress_that_serves_nothing_takes_those_that_have_just_been_started_and_no_other_does(
    applications: FakeApplications, discovery: ServiceDiscovery
) -> None:
    applications.add("shoal-1", announcement(), "DEPLOYING")
    applications.add("shoal-2", announcement(), "DEPLOY_FAILED")
    starting = await discovery.find_services(SHAPE, None)
    assert starting is not None
    assert await discovery.find_services(SHAPE, starting) is None
    assert applications.asked == ["shoal-1"]


async def test_whole_services_go_before_others_and_then_those_in_use(
    applications: FakeApplications, discovery: ServiceDiscovery
) -> None:
    applications.add("shoal-2", announcement())
    in_use = await discovery.find_services(SHAPE, None)
    applications.add("shoal-1", announcement())
    assert await discovery.find_services(SHAPE, in_use) is in_use
    applications.states["shoal-2"] = "UNHEALTHY"
    other = await discovery.find_services(SHAPE, in_use)
    assert other is not None
    assert other is not in_use
    applications.states["shoal-1"] = "UNHEALTHY"
    assert await discovery.find_services(SHAPE, in_use) is in_use


async def test_services_that_were_gone_are_connected_to_anew(
    applications: FakeApplications, discovery: ServiceDiscovery
) -> None:
    applications.add("shoal-1", announcement())
    before = await discovery.find_services(SHAPE, None)
    applications.states.clear()
    assert await discovery.find_services(SHAPE, before) is None
    applications.states["shoal-1"] = "RUNNING"
    assert await discovery.find_services(SHAPE, before) not in (None, before)


async def test_that_it_cannot_be_told_which_applications_there_are_is_no_absence(
    applications: FakeApplications, discovery: ServiceDiscovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def statuses() -> dict[str, str]:
        raise Unavailable("Serve's controller does not answer")

    monkeypatch.setattr(applications, "statuses", statuses)
    with pytest.raises(Unavailable, match="controller"):
        await discovery.find_services(SHAPE, None)
    assert await find_no_services(SHAPE, None) is None
