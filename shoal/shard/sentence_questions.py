"""What one shard is asked of the sentences of its passages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.late.sentences import SentenceTokens
from shoal.records import FloatArray

if TYPE_CHECKING:
    from shoal.shard.live import LiveShard
    from shoal.shard.reader import Shard


@dataclass(frozen=True, slots=True)
class ScoreSentences:
    """Asks a shard how well the sentences of n rows match a query by their stored token vectors.

    query: vectors of the tokens of the query, float (t, hidden).
    rows: n, of passages.
    sentences: of each of them.
    """

    query: FloatArray
    rows: Sequence[int]
    sentences: Sequence[SentenceTokens]

    def answer(self, shard: "Shard | LiveShard") -> list[FloatArray | None]:
        """Score in an opened shard, float32 (s_i,) for each row; None for a row of another number of tokens.

        Raises InvalidArgument for a version without token vectors, or a row outside.
        """
        return shard.sentence_scores(self.query, self.rows, self.sentences)
