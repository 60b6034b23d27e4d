"""What holds of namespaces wherever an index is written to and searched: a tenant's documents are as if alone."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import Conflict, InvalidArgument, NotFound
from shoal.namespaces import MARK

Asker = shoal.Index | shoal.Client
WORDS = ("wombat", "numbat", "quoll")


def records(marker: str) -> list[dict[str, Any]]:
    """Passages that are alike in each namespace, but for the marker in their texts."""
    return [
        {
            "id": f"doc-{number}#1" if number % 2 else f"doc-{number}",
            "text": f"the {WORDS[number % 3]} {marker} n{number}",
            "metadata": {"burrow": number, "of": marker},
        }
        for number in range(6)
    ]


def found(answer: Any) -> list[str]:
    return [result.id for result in answer.results]


class NamespaceContract:
    """The calls of `shoal.Client` with a namespace, whoever answers them. Each test has namespaces of its own."""

    @staticmethod
    def fill(engine: Asker, *names: str) -> int:
        """Write the same ids to namespaces; returns the position with which all are seen."""
        return max(engine.upsert(records(f"in{name}"), namespace=name).position for name in names)

    def test_a_namespace_is_searched_as_if_there_were_no_other(self, engine: Asker) -> None:
        position = self.fill(engine, "sea", "seas", "a:b#c/d")
        seen: dict[str, Any] = {"min_position": position, "top_k": 20}
        for name in ("sea", "seas", "a:b#c/d"):
            ids = {record["id"] for record in records(name)}
            for options in ({"mode": "dense"}, {"mode": "lexical"}, {"mode": "hybrid"}, {"rerank": "late"}):
                answer = engine.search("the wombat numbat quoll", namespace=name, **seen, **options)
                assert set(found(answer)) == ids
                assert {result.text.split()[2] for result in answer.results} == {f"in{name}"}
            (vector,) = engine.embed(["the wombat"], "query").vectors
            assert set(found(engine.search(vector=vector, namespace=name, **seen))) == ids
            assert found(engine.search("numbat", namespace=name, filter={"burrow": 4}, **seen)) == ["doc-4"]
            several = engine.search(["wombat n0", "quoll n5"], namespace=name, mode="lexical", **seen)
            assert [found(answer)[0] for answer in several] == ["doc-0", "doc-5#1"]
        for name in ("", "__default__", "se", "SEA", "sea "):
            assert not set(found(engine.search("wombat", namespace=name, **seen))) & {"doc-0", "doc-3#1"}
        nobody = engine.search("wombat", namespace="nobody", **seen)
        assert (nobody.results, nobody.warnings) == ([], ["this namespace holds no passage"])

    def test_what_shapes_an_answer_sees_the_namespace_alone(self, engine: Asker) -> None:
        position = self.fill(engine, "shape-a", "shape-b")
        seen: dict[str, Any] = {"min_position": position, "namespace": "shape-a", "top_k": 20}
        counted = engine.search("wombat", facets=["of", "burrow"], **seen)
        assert counted.facets is not None
        assert [(count.value, count.count) for count in counted.facets["of"]] == [("inshape-a", 6)]
        assert sorted(count.value for count in counted.facets["burrow"]) == list(range(6))
        groups = engine.search("wombat", group_by={"field": "$document"}, rerank=False, top_n=6, **seen)
        assert sorted(str(result.group) for result in groups.results) == [f"doc-{number}" for number in range(6)]
        ordered = engine.search("x", order_by={"field": "burrow", "descending": True}, top_n=4, rerank=False, **seen)
        assert found(ordered) == ["doc-5#1", "doc-4", "doc-3#1", "doc-2"]
        rest = engine.search(
            "x", order_by={"field": "burrow", "descending": True}, top_n=4, rerank=False, after=ordered.next, **seen
        )
        assert (found(rest), rest.next) == (["doc-1#1", "doc-0"], None)
        explained = engine.search("wombat", explain=True, collapse=True, diversity=0.2, highlight=True, **seen)
        assert explained.explain is not None
        assert MARK not in str(explained.explain)
        assert {candidate["id"] for candidate in explained.explain["candidates"]} <= {
            record["id"] for record in records("")
        }

    def test_a_cursor_goes_on_in_its_namespace_alone(self, engine: Asker) -> None:
        position = self.fill(engine, "page-a", "page-b")
        asked: dict[str, Any] = {"min_position": position, "mode": "dense", "rerank": False, "top_n": 4}
        first = engine.search("the wombat", namespace="page-a", **asked)
        rest = engine.search("the wombat", namespace="page-a", after=first.next, **asked)
        assert sorted(found(first) + found(rest)) == sorted(record["id"] for record in records(""))
        for name in ("page-b", ""):
            with pytest.raises(InvalidArgument, match="another request"):
                engine.search("the wombat", namespace=name, after=first.next, **asked)

    def test_ids_belong_to_a_namespace(self, engine: Asker) -> None:
        position = self.fill(engine, "ids-a", "ids-b")
        engine.search("wait", min_position=position)
        for name in ("ids-a", "ids-b"):
            fetched = engine.fetch(["doc-3#1", "nothing", "doc-0"], namespace=name)
            assert [passage.id for passage in fetched.passages] == ["doc-3#1", "doc-0"]
            assert [passage.text.split()[2] for passage in fetched.passages] == [f"in{name}"] * 2
            assert fetched.missing == ["nothing"]
            like = engine.search(id="doc-3#1", namespace=name, top_k=20, min_position=position)
            assert sorted(found(like)) == sorted(record["id"] for record in records("") if record["id"] != "doc-3#1")
            listed = engine.list(namespace=name, limit=4)
            more = engine.list(namespace=name, limit=4, cursor=listed.next)
            assert listed.ids + more.ids == sorted(record["id"] for record in records(""))
            assert more.next is None
            assert engine.list(namespace=name, prefix="doc-5").ids == ["doc-5#1"]
        assert engine.fetch(["doc-3#1"]).missing == ["doc-3#1"]
        assert engine.list(prefix="doc-").ids == []
        with pytest.raises(NotFound, match="no passage 'doc-3#1'"):
            engine.search(id="doc-3#1")
        with pytest.raises(NotFound, match="no passage 'p1'"):
            engine.search(id="p1", namespace="ids-a")

    def test_no_id_leads_into_another_namespace(self, engine: Asker) -> None:
        position = self.fill(engine, "door-a")
        engine.search("wait", min_position=position)
        inner = f"{MARK}door-a{MARK}doc-0"
        for name in ("", "door-b"):
            for call in (
                lambda name=name: engine.fetch([inner], namespace=name),
                lambda name=name: engine.list(prefix=MARK, namespace=name),
                lambda name=name: engine.search(id=inner, namespace=name),
                lambda name=name: engine.delete([inner], namespace=name),
                lambda name=name: engine.update([{"id": inner, "metadata": {"a": 1}}], namespace=name),
                lambda name=name: engine.upsert([{"id": inner, "text": "mine"}], namespace=name),
            ):
                with pytest.raises(InvalidArgument, match="U\\+10FFFF"):
                    call()
        assert engine.fetch(["doc-0"], namespace="door-a").passages[0].text == "the wombat indoor-a n0"

    def test_writes_touch_their_namespace_alone(self, engine: Asker) -> None:
        self.fill(engine, "own-a", "own-b")
        first = engine.upsert([{"id": "doc-0", "text": "a wombat indeed"}], namespace="own-a")
        assert (first.written, first.unchanged) == (1, 0)
        assert engine.upsert([{"id": "doc-0", "text": "a wombat indeed"}], namespace="own-a").unchanged == 1
        updated = engine.update(
            [{"id": "doc-2", "metadata": {"burrow": 20}}, {"id": "gone", "metadata": {}}], namespace="own-a"
        )
        assert (updated.updated, updated.missing) == (1, ["gone"])
        with pytest.raises(Conflict, match=r"\(id 'doc-0'\): it should be absent"):
            engine.upsert([{"id": "doc-0", "text": "x", "if": {"absent": True}}], namespace="own-a")
        with pytest.raises(InvalidArgument, match=r"\(id 'doc-0'\): "):
            engine.upsert([{"id": "doc-0", "text": " "}], namespace="own-a")
        assert engine.delete(["doc-1#1", "p3"], namespace="own-a").deleted == 1
        deleted = engine.delete(filter={"burrow": {"$gte": 4}}, namespace="own-a")
        assert deleted.deleted == 3
        engine.search("wait", min_position=deleted.position)
        assert engine.list(namespace="own-a").ids == ["doc-0", "doc-3#1"]
        assert engine.list(namespace="own-b").ids == sorted(record["id"] for record in records(""))
        assert engine.fetch(["doc-2"], namespace="own-b").passages[0].metadata == {"burrow": 2, "of": "inown-b"}
        assert engine.fetch(["p3"]).missing == []

    def test_all_of_a_namespace_is_deleted_and_it_is_gone(self, engine: Asker) -> None:
        self.fill(engine, "all-a", "all-b")
        default = engine.list(limit=1000).ids
        deleted = engine.delete(all=True, namespace="all-a")
        assert deleted.deleted == 6
        engine.search("wait", min_position=deleted.position)
        assert engine.list(namespace="all-a").ids == []
        sizes = {size.namespace: size.passages for size in engine.list_namespaces(prefix="all-").namespaces}
        assert sizes == {"all-b": 6}
        assert engine.list(limit=1000).ids == default

    def test_namespaces_are_counted_and_listed_a_page_at_a_time(self, engine: Asker) -> None:
        names = [f"n/{number}" for number in range(5)] + ["n/ü"]
        position = self.fill(engine, *names)
        position = max(position, engine.delete(["doc-0", "doc-2"], namespace="n/3").position)
        engine.search("wait", min_position=position)
        sizes: list[tuple[str, int]] = []
        page = engine.list_namespaces(prefix="n/", limit=4)
        sizes += [(size.namespace, size.passages) for size in page.namespaces]
        page = engine.list_namespaces(prefix="n/", limit=4, cursor=page.next)
        sizes += [(size.namespace, size.passages) for size in page.namespaces]
        assert sizes == [(name, 4 if name == "n/3" else 6) for name in names]
        assert page.next is None
        everything = engine.list_namespaces(limit=1000).namespaces
        assert everything[0].namespace == ""
        assert everything[0].passages == len(engine.list(limit=1000).ids)
        assert sum(size.passages for size in everything) == engine.describe().passages

    def test_what_is_no_namespace_is_refused(self, engine: Asker) -> None:
        for name in ("x" * 257, "ü" * 129, "a\nb", " ", f"{MARK}acme", "\x00"):
            for call in (
                lambda name=name: engine.search("fish", namespace=name),
                lambda name=name: engine.fetch(["a"], namespace=name),
                lambda name=name: engine.list(namespace=name),
                lambda name=name: engine.upsert([{"id": "a", "text": "b"}], namespace=name),
                lambda name=name: engine.delete(["a"], namespace=name),
                lambda name=name: engine.update([{"id": "a", "metadata": {}}], namespace=name),
            ):
                with pytest.raises(InvalidArgument) as refused:
                    call()
                assert refused.value.param == "namespace"

    def test_a_vector_is_searched_in_its_namespace(self, engine: Asker) -> None:
        vector = np.zeros(64, np.float32)
        vector[9] = 1
        for name, sign in (("vec-a", 1), ("vec-b", -1)):
            position = engine.upsert([{"id": "v", "vector": sign * vector}], namespace=name).position
        for name, score in (("vec-a", 1.0), ("vec-b", -1.0)):
            (result,) = engine.search(vector=vector, namespace=name, min_position=position).results
            assert (result.id, result.score) == ("v", pytest.approx(score, abs=1e-5))
            (with_vector,) = engine.search(
                vector=vector, namespace=name, min_position=position, include=["vector"]
            ).results
            np.testing.assert_allclose(with_vector.vector, vector * score, atol=1e-6)  # type: ignore[arg-type]
