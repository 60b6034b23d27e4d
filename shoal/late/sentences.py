"""Sentences by late interaction: how well the tokens of each sentence of a passage match those of a query.

The score of a sentence is MaxSim over its own tokens: the mean over tokens t of the query of max over tokens u of the
sentence of cos(t, u). A token belongs to the sentence that its last character lies in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.records import FloatArray, RowArray, Span


@dataclass(frozen=True, slots=True)
class SentenceTokens:
    """Which tokens of a passage each of its s sentences has.

    count: tokens of the passage.
    ranges: int64 (s, 2), the first token of each sentence, and the one behind its last.
    """

    count: int
    ranges: RowArray

    @classmethod
    def of(cls, offsets: RowArray, sentences: Sequence[Span]) -> "SentenceTokens":
        """Find the tokens of sentences.

        Args:
            offsets: int64 (t, 2), where each token begins and ends in the text, in characters.
            sentences: Where each sentence begins and ends, in characters, in their order.
        """
        last = np.maximum.accumulate(offsets[:, 1] - 1)
        borders = np.array(sentences, np.int64).reshape(-1, 2)
        return cls(len(offsets), np.searchsorted(last, borders))

    def scores(self, cosines: FloatArray) -> FloatArray | None:
        """Score the sentences, float32 (s,); -inf for one without tokens, None for a passage of other tokens.

        Args:
            cosines: float (q, t), of the tokens of the query and those of the passage.
        """
        if cosines.shape[1] != self.count:
            return None
        scores = np.full(len(self.ranges), -np.inf, np.float32)
        for sentence, (first, behind) in enumerate(self.ranges.tolist()):
            if first < behind:
                scores[sentence] = cosines[:, first:behind].max(axis=1).mean()
        return scores
