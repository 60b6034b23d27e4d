"""Which folders and models a server looks at before Ray starts."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve import preflight
from serve.preflight import check_catalog, check_disk
from shoal.errors import InvalidArgument, NotFound
from shoal.settings import EncoderSettings, RerankerSettings, RunSettings
from shoal.system.temporary import ray_parent

Looked = list[tuple[str, str]]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    """What is looked at, in order: folders by their option, models by what they are used as."""
    seen: Looked = []
    monkeypatch.setattr(preflight, "require_writable", lambda folder, option: seen.append((option, folder)))
    monkeypatch.setattr(preflight, "require_model_cache", lambda kind, name, settings: seen.append((kind, name)))
    return seen


def plan(encoder: str, reranker: str | None = None, kind: str | None = None) -> Any:
    return SimpleNamespace(
        encoder=EncoderSettings(encoder=encoder),
        reranker=None if reranker is None else RerankerSettings(reranker=reranker, encoder=encoder),
        reranker_kind=kind,
    )


@pytest.mark.parametrize(
    ("changes", "planned", "expected"),
    [
        ({}, plan("hashing:32"), []),
        ({"log_dir": "/srv/logs"}, plan("hashing:32"), [("--log-dir", "/srv/logs")]),
        (
            {"index": "s3://bucket/index?region=eu-west-1", "cache_dir": "/srv/shards"},
            plan("hashing:32"),
            [("--cache-dir", "/srv/shards")],
        ),
        ({}, plan("minilm"), [("encoder", "minilm")]),
        ({}, plan("minilm", "overlap", "overlap"), [("encoder", "minilm")]),
        ({}, plan("minilm", "late_interaction", "late_interaction"), [("encoder", "minilm")]),
        ({}, plan("minilm", "/own", "late_interaction"), [("encoder", "minilm"), ("encoder", "/own")]),
        ({}, plan("minilm", "bge", "cross_encoder"), [("encoder", "minilm"), ("cross_encoder", "bge")]),
    ],
)
def test_what_is_written_is_looked_at(changes: dict[str, Any], planned: Any, expected: Looked, looked: Looked) -> None:
    check_disk(RunSettings.model_validate({"index": "/srv/index"} | changes), planned)
    assert looked == [("TMPDIR", ray_parent()), *expected]


def test_what_cannot_be_written_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str, option: str) -> None:
        raise InvalidArgument(f"no files can be written in {folder}", param=option)

    monkeypatch.setattr(preflight, "require_writable", refuse)
    with pytest.raises(InvalidArgument, match=ray_parent()):
        check_disk(RunSettings(index="/srv/index"), plan("hashing:32"))


def test_a_catalog_has_to_be_there_and_a_remote_one_needs_a_cache(looked: Looked, tmp_path: Any) -> None:
    check_catalog(RunSettings(index="/srv/index"))
    assert looked == []
    check_catalog(RunSettings(catalog=str(tmp_path)))
    assert looked == [("TMPDIR", ray_parent())]
    check_catalog(RunSettings(catalog="s3://bucket/indexes?region=eu-west-1", cache_dir="/srv/shards"))
    assert looked[1:] == [("TMPDIR", ray_parent()), ("--cache-dir", "/srv/shards")]
    with pytest.raises(NotFound, match="--catalog"):
        check_catalog(RunSettings(catalog=str(tmp_path / "nowhere")))
