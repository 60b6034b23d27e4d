"""How well held-out queries are ranked: nDCG@10 by ir-measures."""

from collections.abc import Sequence

from shoal.training.mining import Held


def ndcg(scored: Sequence[tuple[Held, Sequence[float]]]) -> float:
    """Return the mean nDCG@10 of queries whose candidates have these scores.

    A relevant passage that the first stage did not offer counts as missed.
    """
    import ir_measures

    qrels = [
        ir_measures.Qrel(str(number), str(row), 1) for number, (held, _) in enumerate(scored) for row in held.relevant
    ]
    run = [
        ir_measures.ScoredDoc(str(number), str(row), score)
        for number, (held, scores) in enumerate(scored)
        for row, score in zip(held.candidates, scores, strict=True)
    ]
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])
