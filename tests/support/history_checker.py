"""Whether an index may have answered concurrent clients as it has.

Every document is a register. The log of the index orders what was written to it, and says what it held at each
position; clients say what they were told, and when. `faults` compares the two.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tests.support.history import Attempt, Change, Content, Deletion, Entry, History, LoggedRequest, Read, Upsert


@dataclass(frozen=True, slots=True)
class _State:
    """What a document held from one position on.

    began: seconds, when the request was first sent that made it so. told: when that was first answered.
    """

    position: int
    content: Content | None
    began: float = 0.0
    told: float = math.inf


_NOTHING = _State(0, None)


class _Acknowledgements:
    """Which position was the last that anybody had been told by a moment."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        told = sorted((each.ended, each.answer["position"]) for each in attempts if each.answer is not None)
        self._moments = [moment for moment, _ in told]
        self._positions = [0, *accumulate((position for _, position in told), max)]

    def before(self, moment: float) -> int:
        return self._positions[bisect_left(self._moments, moment)]


class Checker:
    """Compares a history with the log of the index.

    Args:
        history: What clients saw.
        log: All entries, from position 1 on.
    """

    def __init__(self, history: History, log: Sequence[Entry]) -> None:
        self.history = history
        self.log = log
        self.faults: list[str] = []
        """What no index may do."""
        self._acknowledged = _Acknowledgements(history.attempts)
        self._attempts: dict[str, list[Attempt]] = {}
        for attempt in history.attempts:
            self._attempts.setdefault(attempt.key, []).append(attempt)
        self._states = {document: [_State(0, content)] for document, content in history.initial.items()}
        self._positions: dict[str, int] = {}
        self._changed: dict[str, int] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._replay()

    def _replay(self) -> None:
        """Go through the log, and look what each request has found and made."""
        for number, entry in enumerate(self.log, 1):
            if entry.position != number:
                self.faults.append(f"entry {number} of the log has position {entry.position}")
            for request in entry.requests:
                self._replay_request(request, entry.position)

    def _replay_request(self, request: LoggedRequest, position: int) -> None:
        key = self._sent_without_key(request, position) if request.key is None else request.key
        if key in self._positions:
            self.faults.append(f"{key} was written twice, at {self._positions[key]} and {position}")
        attempts = self._attempts.get(key)
        if attempts is None:
            self.faults.append(f"nobody asked for {key}, written at {position}")
            return
        self._positions.setdefault(key, position)
        before = {document: self._last(document) for document in attempts[0].changes}
        wanted: dict[str, Content | None] = {}
        for document, change in attempts[0].changes.items():
            self._check_condition(f"{key} of {document}", change, before[document])
            content = changed(before[document].content, change)
            if content != before[document].content:
                wanted[document] = content
        if wanted != dict(request.documents):
            self.faults.append(f"{key} should have made {wanted} at {position}, and made {dict(request.documents)}")
        self._changed[key] = len(wanted)
        began = min(attempt.began for attempt in attempts)
        told = min((attempt.ended for attempt in attempts if attempt.answer is not None), default=math.inf)
        for document, content in request.documents.items():
            states = self._states.setdefault(document, [_NOTHING])
            if states[-1].position == position:  # nobody ever sees the one before
                states.pop()
            states.append(_State(position, content, began, told))

    def _last(self, document: str) -> _State:
        return self._states.get(document, [_NOTHING])[-1]

    def _sent_without_key(self, request: LoggedRequest, position: int) -> str:
        """The name of the request that had no key and has made an entry; one that nobody has sent if there is none.

        Of requests that look alike, those that were told of this change come before those that were told nothing.
        """
        unnamed = [
            (key, attempt)
            for key, (attempt, *_) in self._attempts.items()
            if not attempt.keyed and key not in self._positions
        ]
        for key, attempt in sorted(unnamed, key=lambda named: named[1].answer is None):
            answer = attempt.answer
            fits = answer is None or (answer["position"], _count(answer)) == (position, len(request.documents))
            if fits and all(
                document in attempt.changes
                and changed(self._last(document).content, attempt.changes[document]) == content
                for document, content in request.documents.items()
            ):
                return key
        return f"a request without a key at {position}"

    def _check_condition(self, what: str, change: Change, before: _State) -> None:
        if not _holds(change, before):
            self.faults.append(f"{what} was written although its condition does not hold of {before}")

    def check_attempts(self) -> None:
        """Each acknowledged request is there, once, as it was answered; what was answered later comes later."""
        for key, attempts in self._attempts.items():
            answers = [attempt.answer for attempt in attempts if attempt.answer is not None]
            position = self._positions.get(key)
            if answers and position is None and not attempts[0].keyed and not _count(answers[0]):
                self._check_unchanged(attempts[0], answers[0])
            elif answers:
                self._check_answers(key, answers, position)
            elif position is not None and all(attempt.refused for attempt in attempts):
                self.faults.append(f"{key} was refused, and written at {position}")
            for attempt in attempts:
                if attempt.refused:
                    self._check_refusal(attempt, position)
            earlier = self._acknowledged.before(min(attempt.began for attempt in attempts))
            if position is not None and position <= earlier:
                self.faults.append(f"{key} was written at {position}, and asked for after {earlier} was answered")

    def _check_unchanged(self, attempt: Attempt, answer: Mapping[str, Any]) -> None:
        """Whoever is told that nothing was to be changed has read the documents."""
        documents = {
            document: change.content if isinstance(change, Upsert) else None
            for document, change in attempt.changes.items()
        }
        read = Read(attempt.session, attempt.began, attempt.ended, documents, answer["position"], strong=True)
        self._check_read(read, f"the answer to {attempt.key} that there was nothing to do", 0.0)

    def _check_refusal(self, attempt: Attempt, position: int | None) -> None:
        """A condition is refused where it did not hold after all that was answered before, or since."""
        earlier = self._acknowledged.before(attempt.began)
        if position is not None and position <= earlier:
            self.faults.append(f"{attempt.key} was refused after it had been written at {position}")
            return
        for document, change in attempt.changes.items():
            states = self._states.get(document, [_NOTHING])
            for state, following in zip(states, [*states[1:], None], strict=True):
                in_time = state.began <= attempt.ended and (following is None or following.position > earlier)
                if in_time and not _holds(change, state):
                    return
        self.faults.append(f"{attempt.key} was refused, and its conditions held")

    def _check_answers(self, key: str, answers: Sequence[Mapping[str, Any]], position: int | None) -> None:
        if position is None:
            self.faults.append(f"{key} was answered {answers[0]}, and is not there")
            return
        if answers[0]["position"] != position:
            self.faults.append(f"{key} was answered {answers[0]}, and lies at {position}")
        if any(answer != answers[0] for answer in answers):
            self.faults.append(f"{key} was answered differently: {answers}")
        if _count(answers[0]) != self._changed[key]:
            self.faults.append(f"{key} was answered {answers[0]}, and has changed {self._changed[key]} documents")

    def check_reads(self, within_s: float | None, one_replica: bool) -> None:
        """Each answer holds what documents held at or behind the positions that it had to have seen.

        Args:
            within_s: Seconds after its acknowledgement by which every answer has to see a write; None for never.
            one_replica: Whether all answers come from the same shards, so that no client may see a document go back.
        """
        self._seen = {}
        for read in sorted(self.history.reads, key=lambda read: read.began):
            self._check_read(read, f"an answer to {read.session} at {read.began:.3f} s", within_s, one_replica)

    def _check_read(self, read: Read, what: str, within_s: float | None, one_replica: bool = False) -> None:
        self.faults += [f"{what} holds {document} twice" for document in read.repeated]
        lower = self._lower(read, what)
        limit = 0.0 if read.strong else within_s
        for document, content in read.documents.items():
            states = self._candidates(read, document, content)
            floor = max(lower, self._seen.get((read.session, document), 0) if one_replica else 0)
            state = next((state for state, end in states if end is None or end.position > floor), None)
            if state is None:
                self.faults.append(
                    f"{what} says that {document} holds {content} at {floor} or later; it held "
                    f"{self._states.get(document)}"
                )
                continue
            self._seen[read.session, document] = max(floor, state.position)
            if limit is not None and (late := _late(read, states)) > limit:
                self.faults.append(f"{what} says that {document} holds {content}, {late:.3f} s too late")

    def _lower(self, read: Read, what: str) -> int:
        """The position that everything in an answer has to have seen."""
        wanted = max(read.min_position, self._acknowledged.before(read.began) if read.strong else 0)
        if read.position is not None and read.position < wanted:
            self.faults.append(f"{what} should have seen {wanted}, and has seen {read.position}")
        return max(wanted, read.position or 0)

    def _candidates(self, read: Read, document: str, content: Content | None) -> list[tuple[_State, _State | None]]:
        """The states that an answer may have met, each with the one that came after it."""
        states = self._states.get(document, [_NOTHING])
        return [
            (state, following)
            for state, following in zip(states, [*states[1:], None], strict=True)
            if state.content == content and state.began <= read.ended
        ]

    def latest(self) -> float:
        """The most seconds for which an acknowledged write was not seen by an answer."""
        return max(
            (
                _late(read, states)
                for read in self.history.reads
                for document, content in read.documents.items()
                if (states := self._candidates(read, document, content))
            ),
            default=0.0,
        )


def _holds(change: Change, state: _State) -> bool:
    """Whether the condition of a change holds of a document, if it has one."""
    condition = change.condition if isinstance(change, Upsert) else None
    if condition is None:
        return True
    if condition.position is None:
        return state.content is None
    return state.content is not None and state.position == condition.position


def _count(answer: Mapping[str, Any]) -> int:
    """How many documents have changed by an answer."""
    return int(next(answer[name] for name in ("written", "deleted", "updated") if name in answer))


def _late(read: Read, states: Sequence[tuple[_State, _State | None]]) -> float:
    """How many seconds before an answer was asked for a write was acknowledged that it does not show; below 0 none."""
    following = states[-1][1]
    return -math.inf if following is None else read.began - following.told


def changed(content: Content | None, change: Change) -> Content | None:
    """What a document holds after a change."""
    if isinstance(change, Upsert):
        return change.content
    if isinstance(change, Deletion) or content is None:
        return None
    return Content(content.text, change.revision)


def faults(
    history: History, log: Sequence[Entry], *, within_s: float | None = None, one_replica: bool = False
) -> list[str]:
    """Say what no index may have done; see `Checker`."""
    checker = Checker(history, log)
    checker.check_attempts()
    checker.check_reads(within_s, one_replica)
    return checker.faults
