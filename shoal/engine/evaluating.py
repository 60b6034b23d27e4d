"""An evaluation of an index that is open in this process."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from pydantic import ValidationError

from shoal.engine.mistakes import explain_mistakes
from shoal.errors import InvalidArgument
from shoal.evaluation import require
from shoal.evaluation.asking import ClientAsker, Searcher, ask_planned, planned
from shoal.evaluation.evaluate import Outcome, evaluate
from shoal.evaluation.runs import Run
from shoal.settings import EvaluateSettings, ServeSettings

OPTIONS = frozenset(
    {"split", "modes", "rerank", "top_k", "queries", "runs", "baseline", "save_runs", "per_query", "timeout_ms"}
)
"""Options of `shoal eval` that an index takes which is open already; the others say how one is opened or shown."""


def evaluate_index(
    index: Searcher, settings: ServeSettings, dataset: str | PathLike[str], options: Mapping[str, Any]
) -> Outcome:
    """Ask the judged queries of a dataset and measure the answers.

    Args:
        index: The index, open.
        settings: With which it was opened.
        dataset: Folder in BEIR layout.
        options: Those of OPTIONS.

    Raises:
        InvalidArgument: An option is wrong or none of these, the dataset cannot be read, or the extra `eval` lacks.
    """
    require()
    if unknown := sorted(options.keys() - OPTIONS):
        known = ", ".join(sorted(OPTIONS))
        raise InvalidArgument(f"{unknown[0]} is no option of this evaluation; these are {known}", param=unknown[0])
    given = {"dataset": fspath(dataset), "index": settings.index, **options}
    try:
        asked = EvaluateSettings.model_validate(given)
    except ValidationError as error:
        message, param = explain_mistakes(error.errors(), given)
        raise InvalidArgument(message, param=param) from None
    timeout_ms = min(asked.timeout_ms, settings.max_timeout_ms)

    def ask(asked: EvaluateSettings, queries: dict[str, str]) -> list[Run]:
        asker = ClientAsker(index, timeout_ms)
        return ask_planned(asker, queries, planned(asked, asker), asked.top_k)

    return evaluate(asked, ask)
