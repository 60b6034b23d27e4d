"""The words of a query that no passage holds, corrected before anything is searched for (`shoal.lexical.spelling`)."""

import asyncio
import logging
from collections.abc import Callable

from shoal.errors import ShoalError
from shoal.records import SearchRequest, Spelling
from shoal.search.live_index import LiveIndex
from shoal.search.trace import SearchTrace
from shoal.settings import SpellingSettings
from shoal.system import tracing

logger = logging.getLogger(__name__)


class SpellingStage:
    """Corrects queries, where that is wanted and the version says which words its passages hold.

    Args:
        settings: Of the server.
        clock: That of deadlines, in seconds.
    """

    def __init__(self, settings: SpellingSettings, clock: Callable[[], float]) -> None:
        self._is_on = settings.correct_spelling
        self._clock = clock

    async def spelled(
        self, request: SearchRequest, live: LiveIndex | None, deadline: float, trace: SearchTrace
    ) -> Spelling:
        """Return the query of a request as it is searched, and tell the trace what was corrected.

        A query of a namespace stays as it is: the words that are known are those of all namespaces, and none shall
        tell another what its passages hold. So does one whose time is over before the words are read.

        Args:
            request: What was asked for.
            live: The version that answers.
            deadline: Until when the words of the version may be read, which is done once.
            trace: Of the request.
        """
        as_typed = Spelling(request.query)
        is_on = self._is_on if request.correct_spelling is None else request.correct_spelling
        if not is_on or not request.query or request.namespace or live is None or not live.can_spell:
            return as_typed
        try:
            async with asyncio.timeout(deadline - self._clock()):
                speller = live.speller
                if speller is None:
                    speller = await asyncio.to_thread(live.open_speller)
                if not speller.unknown_words(request.query):
                    return as_typed
                spelling = await asyncio.to_thread(speller.correct, request.query)
        except TimeoutError:
            return as_typed
        except (ShoalError, OSError):
            logger.exception("queries cannot be corrected", extra=tracing.fields())
            return as_typed
        trace.warnings += [
            f"no passage has the word {word}; {other} was searched for in its place"
            for word, other in spelling.words.items()
        ]
        return spelling
