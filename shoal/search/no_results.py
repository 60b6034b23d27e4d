"""Why a search found nothing, in words for whoever asked."""

from collections.abc import Iterable

from shoal.filters import conditions
from shoal.search.request_plan import RequestPlan
from shoal.search.shard_client import ShardResult

_SHOWN_WORDS = 20
"""Words that a sentence names."""


def explain_no_results(query: str, plan: RequestPlan, results: Iterable[ShardResult]) -> str | None:
    """Say why no shard found a passage: there is none, or by the filter, or by the words; None if nothing tells."""
    asked = conditions(plan.filter)
    if not plan.version.count_passages() and plan.filter is asked:
        return "this index version holds no passage"
    if plan.filter is not None:
        matches = [result.hits.matches[result.position] for result in results if result.hits.matches]
        if matches and not any(matches):
            return "no passage fulfils the filter" if asked is not None else "this namespace holds no passage"
    if plan.mode != "lexical" or plan.version.lexical is None:
        return None
    from shoal.lexical.analyzer import Analyzer  # searches that find something do without

    words = list(dict.fromkeys(Analyzer(plan.version.lexical.settings).terms(query)))
    if not words:
        return "no word of the query counts: it holds stop words and signs alone"
    shown = ", ".join(words[:_SHOWN_WORDS]) + (f" and {len(words) - _SHOWN_WORDS} more" * (len(words) > _SHOWN_WORDS))
    among = " that fulfils the filter" if asked is not None else ""
    return f"no passage{among} holds a word of the query; those that count are, as they are indexed: {shown}"
