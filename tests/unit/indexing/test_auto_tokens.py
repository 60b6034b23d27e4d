"""Whether a build stores token vectors when nobody says so: if it can, they fit, and the current version does."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.build import tasks
from shoal.encoders import load_encoder
from shoal.index_root.storage import Storage
from shoal.indexing.auto_tokens import follow_current, width_for_auto
from shoal.indexing.empty import create_index
from shoal.indexing.plan import Plan, make_plan
from shoal.records import Passage
from shoal.settings import BuildSettings, CreateSettings, EncoderSettings, LateSettings
from tests.support.indexes import publish

ENCODER = load_encoder(EncoderSettings(encoder="hashing:32"))
TEXT = "red fish in the river " * 20
BYTES = 200 * len(TEXT) / 4.5 * 4
"""Of the tokens of all passages, 16 dimensions of 2 bits each."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "text": TEXT}) + "\n" for n in range(200)))
    return path


def settings(source: Path, root: Path, **changes: Any) -> BuildSettings:
    given = {"source": str(source), "index": str(root), "late_dims": 16, "encoder": "some/model"} | changes
    return BuildSettings(**given)


def plan(source: Path, root: Path, width: int = 32, **changes: Any) -> Plan:
    return make_plan(settings(source, root, **changes), ENCODER.fingerprint(), width)


def test_tokens_are_stored_as_long_as_they_fit(tmp_path: Path, source: Path) -> None:
    assert plan(source, tmp_path).stores_tokens
    assert plan(source, tmp_path).hash == plan(source, tmp_path, late_interaction="stored").hash
    without = plan(source, tmp_path, late_interaction="none")
    beyond = 2**30 * 1.0
    for changes in (
        {"late_gib": 0.8 * BYTES / beyond},
        {"width": 0},
        {"late_dims": 40},
        {"index_kind": "IVF4,PQ4x4fs"},
    ):
        other = plan(source, tmp_path, **changes)
        assert (other.stores_tokens, other.late.late_interaction) == (False, "none")
    assert plan(source, tmp_path, width=0).hash == without.hash
    assert plan(source, tmp_path, late_gib=1.3 * BYTES / beyond).stores_tokens
    # A text is cut into pieces that have as many tokens together.
    assert plan(source, tmp_path, late_gib=1.5 * BYTES / beyond, chunk_characters=100).stores_tokens


def test_a_build_goes_by_the_current_version(tmp_path: Path, source: Path) -> None:
    asked = settings(source, tmp_path / "plain")
    assert follow_current(asked, Storage(asked.index)) == (asked, None)
    publish(tmp_path / "plain", "v1", [Passage("a", "red fish")])
    followed, remark = follow_current(asked, Storage(asked.index))
    assert followed.late_interaction == "none"
    assert remark is not None
    assert remark.startswith("no token vectors are stored, as in v1 (--late-interaction stored")
    for decided in ({"late_interaction": "stored"}, {"late_interaction": "none"}, {"reembed": True}):
        given = asked.model_copy(update=decided)
        assert follow_current(given, Storage(asked.index)) == (given, None)

    late = LateSettings(late_interaction="stored", late_dims=8, late_bits=4)
    publish(tmp_path / "late", "v1", [Passage("a", "red fish")], encoder="hashing:16", late=late)
    asked = BuildSettings(source=str(source), index=str(tmp_path / "late"))
    followed, remark = follow_current(asked, Storage(asked.index))
    assert (followed.late_interaction, followed.late_dims, followed.late_bits, remark) == ("auto", 8, 4, None)
    asked = BuildSettings(source=str(source), index=str(tmp_path / "late"), late_bits=1)
    assert follow_current(asked, Storage(asked.index))[0].late_bits == 1


def test_what_has_token_vectors_keeps_them_at_any_size_unless_a_budget_is_named(tmp_path: Path, source: Path) -> None:
    late = LateSettings(late_interaction="stored", late_dims=16)
    publish(tmp_path / "late", "v1", [Passage("a", "red fish")], encoder="hashing:32", late=late)
    budget = 0.5 * BYTES / 2**30
    asked = BuildSettings(source=str(source), index=str(tmp_path / "late"), encoder="some/model")
    asked.__dict__["late_gib"] = budget  # as if that were the default
    followed = follow_current(asked, Storage(asked.index))[0]
    assert make_plan(followed, ENCODER.fingerprint(), 32).stores_tokens
    named = asked.model_copy(update={"late_gib": budget})
    followed = follow_current(named, Storage(asked.index))[0]
    assert not make_plan(followed, ENCODER.fingerprint(), 32).stores_tokens


def test_an_index_that_nothing_was_written_to_is_no_precedent(tmp_path: Path, source: Path) -> None:
    create_index(CreateSettings(index=str(tmp_path / "root"), encoder="hashing:16"))
    asked = settings(source, tmp_path / "root")
    assert follow_current(asked, Storage(asked.index)) == (asked, None)


def test_weightless_encoders_store_none_by_themselves(tmp_path: Path, source: Path) -> None:
    assert width_for_auto(settings(source, tmp_path), ENCODER) == 32
    assert width_for_auto(settings(source, tmp_path, encoder="hashing:32"), ENCODER) == 0
    assert width_for_auto(settings(source, tmp_path, late_dims=64), ENCODER) == 0
    assert width_for_auto(settings(source, tmp_path, late_interaction="none"), ENCODER) == 0
    described = tasks.describe_encoder(settings(source, tmp_path, encoder="hashing:32"))
    assert described == (ENCODER.fingerprint(), 0)


def test_a_weightless_encoder_keeps_those_of_the_current_version(tmp_path: Path, source: Path) -> None:
    late = LateSettings(late_interaction="stored", late_dims=16, late_bits=4)
    publish(tmp_path / "late", "v1", [Passage("a", "red fish")], encoder="hashing:32", late=late)
    asked = BuildSettings(source=str(source), index=str(tmp_path / "late"), encoder="hashing:32")
    followed, _ = follow_current(asked, Storage(asked.index))
    encoder, width = tasks.describe_encoder(followed)
    planned = make_plan(followed, encoder, width)
    assert (planned.late.late_interaction, planned.late.late_dims, planned.late.late_bits) == ("stored", 16, 4)
    followed, _ = follow_current(asked.model_copy(update={"late_interaction": "none"}), Storage(asked.index))
    assert tasks.describe_encoder(followed)[1] == 0
