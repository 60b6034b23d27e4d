"""What one shard is asked of its namespaces."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard

NamespaceCounts = list[tuple[str, int]]
"""Names of namespaces, ascending, and the passages of each."""


@dataclass(frozen=True, slots=True)
class CountNamespaces:
    """Asks for the first namespaces by name, and how many passages each has.

    prefix: what the names begin with. after: the name behind which to begin; None for the beginning.
    """

    prefix: str
    after: str | None
    limit: int

    def answer(self, shard: "Shard | LiveShard") -> NamespaceCounts:
        """Count in an opened shard."""
        counts: Counter[str] = Counter()
        for part, alive, _ in shard.parts():
            counts.update(part.count_namespaces(alive))
        names = sorted(
            name for name in counts if name.startswith(self.prefix) and (self.after is None or name > self.after)
        )
        return [(name, counts[name]) for name in names[: self.limit]]


@dataclass(frozen=True, slots=True)
class CountNamespace:
    """Asks how many passages a namespace has."""

    namespace: str

    def answer(self, shard: "Shard | LiveShard") -> int:
        """Count in an opened shard."""
        return sum(part.count_namespace(self.namespace, alive) for part, alive, _ in shard.parts())
