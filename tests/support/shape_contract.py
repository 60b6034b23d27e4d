"""What holds of the shape of an answer wherever an index is searched; a part of `tests.support.engine_contract`."""

from typing import Any

import shoal
from shoal.client.answers import SearchResult

Asker = shoal.Index | shoal.Client


class ShapeContract:
    """Facets, groups and pages, whoever answers."""

    def test_values_of_fields_are_counted_over_all_that_fulfil_the_filter(self, asker: Asker) -> None:
        answer = asker.search("fish", top_n=1, facets=["number"], filter={"number": {"$gte": 55}})
        assert answer.facets is not None
        assert [(entry.value, entry.count) for entry in answer.facets["number"]] == [
            (number, 1) for number in range(55, 60)
        ]
        (first, second) = asker.search(["fish", "otter"], facets=[{"field": "number", "limit": 2}])
        assert first.facets == second.facets
        assert first.facets is not None
        assert len(first.facets["number"]) == 2
        assert asker.search("fish").facets is None

    def test_token_vectors_that_ordered_an_answer_choose_its_sentences(self, asker: Asker) -> None:
        options: dict[str, Any] = {"top_k": 20, "top_n": 20, "highlight": True, "mode": "dense"}
        late = asker.search("green snail", rerank="late", **options)
        # Each text is one sentence, and words say nothing of one that has none of the query.
        assert [result.highlight and result.highlight.text for result in late.results] == [
            result.text for result in late.results
        ]
        by_words = asker.search("green snail", rerank=False, **options)
        assert [bool(result.highlight) for result in by_words.results] == [
            bool({"green", "snail"} & set((result.text or "").split())) for result in by_words.results
        ]
        assert not all(result.highlight for result in by_words.results)
        assert (late.warnings, late.degraded) == ([], None)

    def test_pages_go_on_behind_each_other(self, asker: Asker) -> None:
        whole = asker.search("black otter", top_n=50, top_k=50, rerank=False, mode="dense", highlight=True)
        after: dict[str, str] = {}
        results: list[SearchResult] = []
        while len(results) < 50:
            page = asker.search("black otter", top_n=25, rerank=False, mode="dense", highlight=True, **after)  # type: ignore[misc]
            assert page.next is not None
            after = {"after": page.next}
            results += page.results
        assert [result.id for result in results] == [result.id for result in whole.results]
        assert results[0].highlight is not None
        assert results[0].highlight.text == results[0].text
