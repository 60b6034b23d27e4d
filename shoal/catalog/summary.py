"""What is told of each index of a server, whether it is loaded or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shoal.engine.description import IndexDescription, ModelNames
from shoal.modes import Mode
from shoal.search.live_index import LiveDescription

State = Literal["ready", "loading", "unloaded", "failed"]
"""Whether an index is in memory. One that is unloaded is loaded when it is asked for."""


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """An index of a server.

    Args:
        name: By which it is asked.
        state: Whether it is in memory.
        version: That is served, or would be; None where that cannot be told, as of what follows.
        passages: How many it holds; of one that is not loaded, those of its version.
        dim: Dimensions of a vector.
        metric: What compares vectors.
        modes: How it can be searched.
        late_interaction: Whether the shards hold token vectors.
        fields: Metadata fields that filters know, and their types.
        models: The models that serve it.
        live: What was written since its version was built; None where that is nothing, or where it is not loaded.
        problem: Why it cannot be served, or not as it should be.
    """

    name: str
    state: State
    version: str | None = None
    passages: int | None = None
    dim: int | None = None
    metric: str | None = None
    modes: Sequence[Mode] = ()
    late_interaction: Literal["none", "stored"] | None = None
    fields: Mapping[str, str] | None = None
    models: ModelNames | None = None
    live: LiveDescription | None = None
    problem: str | None = None

    @classmethod
    def of(cls, name: str, state: State, description: IndexDescription, problem: str | None = None) -> "IndexSummary":
        """Shorten a description."""
        return cls(
            name=name,
            state=state,
            version=description.version,
            passages=description.passages,
            dim=description.dim,
            metric=description.metric,
            modes=description.modes,
            late_interaction=description.late_interaction,
            fields=description.fields,
            models=description.models,
            live=description.live,
            problem=problem or description.problem,
        )
