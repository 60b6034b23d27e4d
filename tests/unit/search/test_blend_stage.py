"""Answers that a learned blend orders, over an index in this process: what is asked, what is added, what is told."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.lexical.analyzer import Analyzer
from shoal.records import SearchAnswer, SearchRequest
from shoal.rerankers import load_reranker
from shoal.search import blend_stage
from shoal.search.blend_features import FEATURES, CandidateScores, compute_features
from shoal.search.learned_blend import check_blend
from shoal.search.local import LocalModels, LocalVersion
from shoal.settings import (
    EncoderSettings,
    EndpointSettings,
    LateSettings,
    LexicalSettings,
    RerankerSettings,
    ServeSettings,
)
from shoal.shard.live import LiveShard
from tests.support.blends import WEIGHT, write_blend
from tests.support.indexes import passages, publish

QUERY = "the green otter number n7 that a red newt saw"
CONTENT = passages(60)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blend") / "root"
    late = LateSettings(late_interaction="stored", late_dims=16, late_bits=8)
    publish(folder, "v1", CONTENT, encoder="hashing:16", lexical=LexicalSettings(), late=late)
    return folder


@pytest.fixture(scope="module")
def manifest(root: Path) -> Manifest:
    return versions.current_manifest(Storage(str(root)))


def blend_file(folder: Path, manifest: Manifest, reranker: str = "overlap", **changes: Any) -> Path:
    write_blend(folder / "blend.json", manifest, reranker, **changes)
    return folder / "blend.json"


class System:
    """An index in this process."""

    def __init__(self, root: Path, **settings: Any) -> None:
        serve = ServeSettings(index=str(root), **{"reranker": "overlap", **settings})
        reranker = load_reranker(RerankerSettings(reranker=serve.reranker, encoder="hashing:16"))
        self._models = LocalModels(load_encoder(EncoderSettings(encoder="hashing:16")), reranker, serve, serve.reranker)
        manifest = versions.current_manifest(Storage(str(root)))
        self._version = LocalVersion(Storage(str(root)), manifest, self._models, serve)

    def search(self, **changes: Any) -> SearchAnswer:
        base = SearchRequest(
            query=QUERY, top_k=20, top_n=20, rerank=True, deadline=time.monotonic() + 60, mode="hybrid", explain=True
        )
        return asyncio.run(self._version.search([replace(base, **changes)]))[0]

    def close(self) -> None:
        self._version.close()
        self._models.close()


@pytest.fixture
def open_system(root: Path) -> Iterator[Any]:
    opened: list[System] = []

    def opening(**settings: Any) -> System:
        opened.append(System(root, **settings))
        return opened[-1]

    yield opening
    for system in opened:
        system.close()


def expected_scores(plain: SearchAnswer) -> dict[str, float]:
    """The final score of every candidate, worked out of an answer without a blend that explains itself."""
    assert plain.explain is not None
    explained = {each["id"]: each for each in plain.explain["candidates"]}
    blended = {result.id: result.score for result in plain.results}
    ids = [id_ for id_ in explained if id_ in blended]
    assert len(ids) == 20
    best = max(each["lexical_score"] for each in explained.values())

    def numbers(key: str) -> np.ndarray:
        return np.array([explained[id_][key] for id_ in ids], np.float64)

    today = np.array([blended[id_] for id_ in ids])
    scores = CandidateScores(
        numbers("dense_score"), numbers("lexical_score") / best, numbers("score"), numbers("rerank_score"), today
    )
    texts = {passage.id: passage.content for passage in CONTENT}
    analyzer = Analyzer(LexicalSettings())
    features = compute_features(scores, analyzer.terms(QUERY), [analyzer.terms(texts[id_]) for id_ in ids])
    first, dense = (features[:, FEATURES.index(name)] for name in ("first_match", "dense_z"))
    trees = np.where(first > np.float32(0.3), -1.0, np.where(dense <= np.float32(0.2), 2.0, 0.5))
    final = today + WEIGHT * today.std() * (trees - trees.mean()) / trees.std()
    return dict(zip(ids, final.tolist(), strict=True))


STAGES = [("overlap", {}), ("late_interaction", {}), ("late_interaction", {"stored_tokens": False})]


@pytest.mark.parametrize("fetch_with_hits", [True, False])
@pytest.mark.parametrize(("reranker", "settings"), STAGES)
def test_trees_are_added_to_what_orders_the_answer(
    tmp_path: Path,
    manifest: Manifest,
    open_system: Any,
    reranker: str,
    settings: dict[str, Any],
    fetch_with_hits: bool,
) -> None:
    settings = {**settings, "reranker": reranker, "fetch_with_hits": fetch_with_hits}
    plain = open_system(**settings).search()
    path = blend_file(tmp_path, manifest, reranker)
    system = open_system(**settings, blend=str(path))
    expected = expected_scores(plain)
    answer = system.search(top_n=6)
    assert {result.id: result.score for result in answer.results} == pytest.approx(
        {id_: expected[id_] for id_ in sorted(expected, key=lambda id_: -expected[id_])[:6]}, abs=1e-5
    )
    assert [result.id for result in answer.results] != [result.id for result in plain.results[:6]]
    assert answer.degraded is None
    assert answer.degradations == ()
    unblended = system.search(blend=False)
    assert [(each.id, each.score) for each in unblended.results] == [(each.id, each.score) for each in plain.results]


@pytest.mark.parametrize(
    "changes", [{"rerank": False}, {"mode": "dense"}, {"mode": "lexical"}, {"rerank": "late"}], ids=str
)
def test_answers_that_it_was_not_fitted_to_stay_as_they_are(
    tmp_path: Path, manifest: Manifest, open_system: Any, changes: dict[str, Any]
) -> None:
    plain, blended = open_system(), open_system(blend=str(blend_file(tmp_path, manifest)))
    one, other = plain.search(**changes), blended.search(**changes)
    assert [(each.id, each.score) for each in one.results] == [(each.id, each.score) for each in other.results]
    assert (one.degraded, other.degraded) == (None, None)


def test_a_query_that_finds_nothing_is_answered(tmp_path: Path, manifest: Manifest, open_system: Any) -> None:
    system = open_system(blend=str(blend_file(tmp_path, manifest)))
    answer = system.search(filter={"number": 1000})
    assert (answer.results, answer.degraded) == ([], None)
    assert len(system.search(filter={"number": 7}).results) == 1


def test_without_all_texts_the_answer_is_ordered_as_ever_and_says_so(
    tmp_path: Path, manifest: Manifest, open_system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two shards does not send its texts, after both have scored their passages by stored token vectors."""
    options = {"reranker": "late_interaction"}
    plain = open_system(**options)
    system = open_system(**options, blend=str(blend_file(tmp_path, manifest, "late_interaction")))
    whole = plain.search()
    fetch = LiveShard.fetch

    def failing(shard: LiveShard, *args: Any) -> Any:
        if shard is system._version.shards[1]:
            raise OSError("the disk is away")
        return fetch(shard, *args)

    monkeypatch.setattr(LiveShard, "fetch", failing)
    answer = system.search()
    missing = 20 - len(answer.results)
    assert 0 < missing < 20
    kept = {result.id for result in answer.results}
    assert [each.id for each in answer.results] == [each.id for each in whole.results if each.id in kept]
    assert "not_blended" in answer.degradations
    assert answer.degraded is not None
    assert f"ordered without the learned blend: {missing} of 20 texts are missing" in answer.degraded


def test_a_version_that_it_does_not_fit_is_answered_without_it(
    tmp_path: Path, manifest: Manifest, open_system: Any
) -> None:
    plain = open_system().search()
    path = blend_file(tmp_path, manifest, analyzer=f"sha256:{'0' * 64}")
    answer = open_system(blend=str(path)).search()
    assert [each.id for each in answer.results] == [each.id for each in plain.results]
    assert answer.degradations == ("not_blended",)
    assert answer.degraded == "ordered without the learned blend: version v1 cuts texts into other terms than the " + (
        "version that it was fitted over"
    )


def test_what_takes_too_long_is_left_out(
    tmp_path: Path, manifest: Manifest, open_system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = open_system(blend=str(blend_file(tmp_path, manifest)))
    monkeypatch.setattr(blend_stage, "before", lambda deadline, now: now - 1)
    answer = system.search()
    assert answer.degraded == "ordered without the learned blend: it missed the deadline"
    assert len(answer.results) == 20


def test_a_blend_of_something_else_is_refused_before_anything_is_served(
    root: Path, tmp_path: Path, manifest: Manifest
) -> None:
    def refused(**changes: Any) -> str:
        path = blend_file(tmp_path, manifest, **changes.pop("file", {}))
        with pytest.raises(InvalidArgument) as error:
            shoal.open(root, **{"reranker": "overlap", "blend": str(path), **changes})
        assert error.value.param == "blend"
        return error.value.message

    assert "fitted over the scores of the reranker late_interaction, and this one is overlap" in refused(
        file={"reranker": "late_interaction"}
    )
    other = manifest.encoder.model_copy(update={"weights": "sha256:other"})
    assert "it was fitted over" in refused(file={"encoder": other})
    assert "other terms" in refused(file={"analyzer": f"sha256:{'0' * 64}"})
    assert "there is none" in refused(reranker="none")
    assert "cannot be read" in refused(blend=str(tmp_path / "away.json"))
    wordless = manifest.model_copy(update={"lexical": None})
    model = blend_stage.read_blend(str(blend_file(tmp_path, manifest)))
    with pytest.raises(InvalidArgument, match="has no lexical index"):
        check_blend(model, wordless, "overlap")


def test_stored_token_vectors_need_no_reranker(root: Path, tmp_path: Path, manifest: Manifest) -> None:
    path = blend_file(tmp_path, manifest, "late_interaction")
    with shoal.open(root, reranker="none", blend=str(path)) as index:
        answer = index.search(QUERY, rerank="late", mode="hybrid")
    with shoal.open(root, reranker="none") as index:
        plain = index.search(QUERY, rerank="late", mode="hybrid")
    assert [each.id for each in answer.results] != [each.id for each in plain.results]


@pytest.mark.parametrize("others", [{"further_indexes": ["b"]}, {"catalog": "folder"}])
def test_a_blend_is_of_one_index(others: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fitted to one index"):
        EndpointSettings(index="a", blend="blend.json", **others)
    assert EndpointSettings(index="a", blend="blend.json").blend == "blend.json"
