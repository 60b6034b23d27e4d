"""What one shard is asked of its rows beside a search: a question travels to the shard and answers itself there."""

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard

T_co = TypeVar("T_co", covariant=True)


class ShardQuestion(Protocol[T_co]):
    """A question to one shard. It is pickled for the call, as its answer is, so both are small and plain."""

    def answer(self, shard: "Shard | LiveShard") -> T_co:
        """Answer from an opened shard, in a thread of it. Raises InvalidArgument for what its version has not."""
        ...
