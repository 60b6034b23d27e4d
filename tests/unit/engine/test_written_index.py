"""The central promise of writing: whatever clients do, an index answers as a fresh build of the same records.

Everything runs in this process as in a server: requests with keys and conditions, the log on disk, compactions and
rollbacks between them, and the index opened anew. Ids, order and scores are compared after every step, by vectors, by
words, by both, with filters, counts of values, and by token vectors.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shoal.client.writes import WriteCall, new_key
from shoal.errors import Conflict, KeyReused
from tests.support.long import LONG
from tests.support.written_index import DIM, WrittenIndex

WORDS = ("otter", "heron", "newt", "river", "stone", "fish", "quick", "red")
RECORDS = tuple(f"d{number}" for number in range(9))
EXAMPLES, STEPS = (50, 50) if LONG else (3, 5)
"""Runs of the machine, the first of the simplest steps, and most steps of one: some 2,500 with the long tests."""

long_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=24).map(" ".join)
short_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
titles = st.sampled_from([None, None, "river", "red"])
years = st.integers(2000, 2005)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "year": years,
        "rank": st.one_of(st.integers(0, 4), st.sampled_from([0.5, 2.0, 2.5])),
        "labels": st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True),
    },
)
vectors = st.lists(st.integers(-3, 3).map(float), min_size=DIM, max_size=DIM).filter(any)
contents = st.one_of(
    st.fixed_dictionaries({"text": long_texts, "title": titles, "metadata": metadata}),
    # One that brings its vector is not cut, and needs no text.
    st.fixed_dictionaries({"vector": vectors, "metadata": metadata}, optional={"text": short_texts, "title": titles}),
)
writes = st.dictionaries(st.sampled_from(RECORDS), contents, min_size=1, max_size=4)


def records_of(contents_by_id: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": id_, **content} for id_, content in contents_by_id.items()]


class Writes(RuleBasedStateMachine):
    """Does at random what clients and operators do, and compares everything with a fresh build."""

    @initialize(
        shards=st.integers(1, 3),
        is_cut=st.booleans(),
        first=st.dictionaries(st.sampled_from(RECORDS[:6]), st.tuples(long_texts, titles, years), min_size=1),
    )
    def begin(self, shards: int, is_cut: bool, first: dict[str, Any]) -> None:
        given = [
            {"id": id_, "text": text, "title": title, "metadata": {"year": year}}
            for id_, (text, title, year) in first.items()
        ]
        self.there = WrittenIndex(Path(tempfile.mkdtemp(prefix="written-")), shards, is_cut, given)
        self.answered: list[tuple[WriteCall, dict[str, Any]]] = []
        self.is_changed = True

    def send(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request with a key of its own, and remember its answer."""
        call = WriteCall(path, body, new_key(), 0)
        answer = self.there.call(call)
        self.answered.append((call, answer))
        self.is_changed = True
        return answer

    @rule(given=writes)
    def upsert(self, given: dict[str, Any]) -> None:
        """Write some records."""
        records = records_of(given)
        self.there.upsert(records, self.send("/v1/passages", {"passages": records}))

    @rule(given=writes)
    def upsert_again(self, given: dict[str, Any]) -> None:
        """Write records, then the same once more: nothing of them changes."""
        records = records_of(given)
        self.there.upsert(records, self.send("/v1/passages", {"passages": records}))
        self.there.upsert(records, self.send("/v1/passages", {"passages": records}))

    @rule(given=writes)
    def upsert_if(self, given: dict[str, Any]) -> None:
        """Write records with conditions that hold."""
        records = records_of(given)
        positions = self.there.positions
        conditions = [
            {"position": positions[each["id"]]} if each["id"] in positions else {"absent": True} for each in records
        ]
        sent = [{**record, "if": condition} for record, condition in zip(records, conditions, strict=True)]
        self.there.upsert(records, self.send("/v1/passages", {"passages": sent}))

    @rule(given=writes)
    def upsert_unless(self, given: dict[str, Any]) -> None:
        """Write records of which the last has a condition that does not hold: nothing is written."""
        records = records_of(given)
        is_there = records[-1]["id"] in self.there.documents
        condition = {"absent": True} if is_there else {"position": 0}
        sent = [*records[:-1], {**records[-1], "if": condition}]
        with pytest.raises(Conflict, match="nothing was written"):
            self.send("/v1/passages", {"passages": sent})
        self.is_changed = True

    @rule(id_=st.sampled_from(RECORDS), values=metadata, removed=st.booleans(), merge=st.booleans())
    def update(self, id_: str, values: dict[str, Any], removed: bool, merge: bool) -> None:
        """Give a record other metadata."""
        changes = {**values, "year": None} if removed else values
        answer = self.send("/v1/passages/update", {"updates": [{"id": id_, "metadata": changes, "merge": merge}]})
        self.there.update(id_, changes, merge, answer)

    @rule(ids=st.lists(st.sampled_from(RECORDS), min_size=1, max_size=3, unique=True))
    def delete(self, ids: list[str]) -> None:
        """Delete records, whether they are there or not."""
        self.there.delete(ids, self.send("/v1/passages/delete", {"ids": ids}))

    # A field that no record has any more is none of a compacted index, and a filter of it is refused there.
    @precondition(lambda self: hasattr(self, "there") and "year" in self.there.index.describe().fields)
    @rule(year=years)
    def delete_selected(self, year: int) -> None:
        """Delete the records of a year."""
        gone = self.there.selected("year", year)
        self.there.delete(gone, self.send("/v1/passages/delete", {"filter": {"year": year}}))

    @precondition(lambda self: bool(getattr(self, "answered", ())))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Repeat a request of any time before: it has the same answer, and does nothing."""
        call, answer = data.draw(st.sampled_from(self.answered), label="request")
        assert self.there.call(call) == answer
        with pytest.raises(KeyReused):
            self.there.call(WriteCall("/v1/passages/delete", {"ids": ["another request"]}, call.key, 0))
        self.is_changed = True

    @rule()
    def compact(self) -> None:
        """Make a version of what was written."""
        self.there.compact()
        self.is_changed = True

    @precondition(lambda self: hasattr(self, "there") and self.there.can_roll_back())
    @rule()
    def roll_back(self) -> None:
        """Return to the version before: the records stay."""
        self.there.index.rollback()
        self.is_changed = True

    @rule()
    def restart(self) -> None:
        """Open the index anew."""
        self.there.restart()
        self.is_changed = True

    @invariant()
    def equal(self) -> None:
        if getattr(self, "is_changed", False):
            self.there.compare()
            self.is_changed = False

    def teardown(self) -> None:
        if hasattr(self, "there"):
            self.there.close()


def test_an_index_that_is_written_to_answers_as_a_fresh_build() -> None:
    bounds = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=not LONG,
        database=None,
    )
    run_state_machine_as_test(Writes, settings=bounds)  # type: ignore[no-untyped-call]
