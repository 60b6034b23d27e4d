"""What a server with replicas begins with: each of its indexes, and how its current version is served. No Ray."""

from dataclasses import dataclass

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


def plan_indexes(settings: EndpointSettings) -> list[PlannedIndex]:
    """Plan how the indexes of a server are served, the default one first. Loads no model.

    Raises what `plan_serving` raises for one of them, and InvalidArgument where two have one name.
    """
    named = named_roots([settings.index, *settings.further_indexes])
    planned: list[PlannedIndex] = []
    for name, root in named.items():
        of_index = settings.part(ServeSettings, index=root)
        planned.append(PlannedIndex(name if planned else None, of_index, plan_serving(of_index)))
    return planned
