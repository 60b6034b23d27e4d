"""What holds of the shape of an answer wherever an index is searched; a part of `tests.support.engine_contract`."""

import shoal

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
