"""Methods of replicas that are called from other processes: their spans belong to the traces that a call names."""

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from shoal.system import spans

P = ParamSpec("P")
T = TypeVar("T")
Replica = TypeVar("Replica", bound="Traced")


class Traced:
    """The base of replicas that are called.

    Attributes:
        service: What they are, in one word.
    """

    service: str = "service"

    def span_attributes(self) -> spans.Attributes:
        """Return what every span of this replica says."""
        return {}


def traced(
    method: Callable[Concatenate[Replica, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Replica, P], Coroutine[Any, Any, T]]:
    """Let a method take the argument `places` of `serve.ray_adapters.handles.call`: where in traces it is called."""

    @functools.wraps(method)
    async def serve(self: Replica, *args: Any, places: Sequence[spans.Carrier] = (), **options: Any) -> T:
        if not places:
            return await method(self, *args, **options)
        with spans.received(f"{self.service} {method.__name__}", places, self.span_attributes()):
            return await method(self, *args, **options)

    serve.takes_places = True  # type: ignore[attr-defined]
    return cast(Callable[Concatenate[Replica, P], Coroutine[Any, Any, T]], serve)
