"""What a server with replicas begins with: each of its indexes, and how its current version is served. No Ray."""

from dataclasses import dataclass

from shoal.errors import InvalidArgument
from shoal.serving.index_name import named_roots
from shoal.serving.plan import ServingPlan, plan_serving
from shoal.settings import EndpointSettings, ServeSettings


@dataclass(frozen=True, slots=True)
class PlannedIndex:
    """An index of a server.

    Args:
        name: By which clients know it; None for the default one.
        settings: Of the server, with the root of the index.
        plan: How its current version is served.
    """

    name: str | None
    settings: ServeSettings
    plan: ServingPlan


def given_roots(settings: EndpointSettings) -> list[str]:
    """The index roots that a server is given, the default one first; none where it has a catalog alone."""
    return [settings.index, *settings.further_indexes] if settings.index else []


def check_indexes(settings: EndpointSettings) -> None:
    """Raise InvalidArgument for what a server cannot have without a default index."""
    if settings.index:
        return
    if settings.further_indexes:
        raise InvalidArgument("there are further indexes and no first one; name that as index", param="--index")
    if settings.grpc_port is not None:
        raise InvalidArgument(
            "over gRPC the default index is asked, and there is none; name one with --index", param="--grpc-port"
        )


def plan_indexes(settings: EndpointSettings) -> list[PlannedIndex]:
    """Plan how the indexes are served that a server was given, the default one first. Loads no model.

    Raises what `plan_serving` raises for one of them, and InvalidArgument where two have one name, and what
    `check_indexes` finds.
    """
    check_indexes(settings)
    named = named_roots(given_roots(settings))
    planned: list[PlannedIndex] = []
    for name, root in named.items():
        of_index = settings.part(ServeSettings, index=root)
        planned.append(PlannedIndex(name if planned else None, of_index, plan_serving(of_index)))
    return planned
