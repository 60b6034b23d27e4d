import json
import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.indexing.plan import Plan, make_plan, plan_sample, shard_of
from shoal.indexing.work_units import Unit
from shoal.settings import BuildSettings, SourceSettings
from shoal.sources.files import InputFile
from shoal.sources.sampling import Sample

ENCODER = Fingerprint(
    model="hashing:8",
    weights="hashing-1",
    dim=8,
    pooling="sum",
    query_prompt="",
    passage_prompt="",
    max_length=256,
    dtype="float32",
)


def settings(**values: Any) -> BuildSettings:
    return BuildSettings(**{"source": "corpus", "index": "root", "format": "jsonl", **values})


def file(name: str = "a.jsonl", size: int = 1000, **values: Any) -> InputFile:
    return InputFile(name=name, uri=f"/corpus/{name}", bytes=size, mtime_ns=1, **values)


def plan_of(
    files: list[InputFile], records: int = 10, mean: float = 100, encoder: Fingerprint = ENCODER, **values: Any
) -> Plan:
    asked = settings(**values)
    source = SourceSettings(**asked.model_dump(include=set(SourceSettings.model_fields)))
    return plan_sample(Sample(files, records, mean), source, asked, encoder)


# --- shards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passage_id", "digest"),  # printf ID | b2sum -l 64
    [("doc-1", "56f47a285f34f541"), ("Zürich", "707438faa779d508"), ("", "e4a6a0577479b2b4")],
)
def test_shard_of_is_blake2b_of_the_id(passage_id: str, digest: str) -> None:
    number = int.from_bytes(bytes.fromhex(digest), "little")
    assert [shard_of(passage_id, shards) for shards in (1, 4, 7, 100_000)] == [number % n for n in (1, 4, 7, 100_000)]


@given(st.text(), st.integers(1, 100_000))
def test_shard_of_is_in_range(passage_id: str, shards: int) -> None:
    assert 0 <= shard_of(passage_id, shards) < shards


def test_shards_are_filled_evenly() -> None:
    shards = 7
    counts = Counter(shard_of(f"doc-{number}", shards) for number in range(14_000))
    chi_squared = sum((counts[shard] - 2000) ** 2 / 2000 for shard in range(shards))
    assert chi_squared < 22.5  # 0.999 quantile with 6 degrees of freedom


def test_one_shard_for_every_million_passages_unless_asked_otherwise() -> None:
    assert plan_of([file()], records=10).shards == 1
    assert plan_of([file()], records=1_000_000).shards == 1
    assert plan_of([file()], records=1_000_001).shards == 2
    assert plan_of([file()], records=10, shards=5).shards == 5


# --- units ----------------------------------------------------------------------------------------------------------


def covered(plan: Plan) -> dict[int, list[tuple[int, int]]]:
    ranges: dict[int, list[tuple[int, int]]] = {}
    for number, unit in enumerate(plan.units):
        assert unit.number == number
        assert plan.units[number] == unit
        ranges.setdefault(unit.file, []).append((unit.start, unit.stop))
    return ranges


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=8),
    st.integers(1, 50),
    st.floats(1, 300),
    st.integers(0, 3),
)
def test_byte_ranges_cover_every_file_once(sizes: list[int], unit: int, mean: float, first: int) -> None:
    files = [file(str(place), size, first=min(first, size)) for place, size in enumerate(sizes)]
    plan = plan_of(files, mean=mean, unit_passages=unit)
    ranges = covered(plan)
    for place, size in enumerate(sizes):
        edges = ranges.get(place, [])
        assert [stop for _, stop in edges[:-1]] == [start for start, _ in edges[1:]]
        assert (edges[0][0], edges[-1][1]) == (min(first, size), size) if edges else size <= first
        assert all(0 < stop - start <= plan.unit_bytes for start, stop in edges)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.integers(1, 50))
def test_row_ranges_cover_every_file_once(rows: list[int], unit: int) -> None:
    files = [file(str(place), 10, rows=count) for place, count in enumerate(rows)]
    ranges = covered(plan_of(files, unit_passages=unit, format="parquet"))
    for place, count in enumerate(rows):
        assert [row for start, stop in ranges.get(place, []) for row in range(start, stop)] == list(range(count))


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=20), st.integers(1, 30))
def test_groups_of_text_files_cover_all_files_once(sizes: list[int], unit: int) -> None:
    plan = plan_of(
        [file(f"{place}.txt", size) for place, size in enumerate(sizes)],
        format="text",
        chunk_characters=1000,
        unit_passages=unit,
    )
    assert [place for group in plan.units for place in range(group.start, group.stop)] == list(range(len(sizes)))
    assert all(group.file == group.start for group in plan.units)


def test_ten_billion_passages_are_planned_in_little_memory() -> None:
    files = [file(f"part-{number:05d}.jsonl", 2_000_000_000) for number in range(1000)]
    plan = plan_of(files, records=10_000_000_000, mean=200)
    assert plan.shards == 10_000
    assert len(plan.units) == 1000 * -(-2_000_000_000 // (200 * 4096))
    assert plan.units[-1].stop == 2_000_000_000
    assert plan.units[-1] == plan.units[len(plan.units) - 1]
    assert len(plan.to_bytes()) < 500_000


def test_units_behave_like_a_list() -> None:
    plan = plan_of([file("a", 1000), file("empty", 0), file("b", 500)], unit_passages=3)
    assert plan.units[2:4] == [Unit(2, 0, 600, 900), Unit(3, 0, 900, 1000)]
    assert plan.units[4] == Unit(4, 2, 0, 300)
    assert list(plan.units) == [plan.units[number] for number in range(6)]
    for number in (6, -7):
        with pytest.raises(IndexError):
            plan.units[number]


def test_long_records_make_units_of_fewer_passages() -> None:
    assert plan_of([file(size=10**9)], mean=1_000_000).unit_records == 67
    assert plan_of([file(size=10**9)], mean=10**9).unit_records == 1


def test_units_are_unknown_while_files_are_pending() -> None:
    plan = plan_of([file("a.jsonl"), file("b.jsonl.gz", compression="gzip"), file("c.jsonl.zst", compression="zstd")])
    assert plan.pending == [1, 2]
    with pytest.raises(ValueError, match="spool"):
        _ = plan.units
    assert plan.estimated_units == 1
    assert plan_of([file("a.csv")], format="csv").pending == [0]
    assert plan_of([file("a.tsv")], format="tsv").pending == []


def test_parquet_of_large_row_groups_is_pending() -> None:
    small, large = file("a.parquet", rows=1000, group=400), file("b.parquet", rows=1000, group=401)
    assert plan_of([small, large], format="parquet", unit_passages=100).pending == [1]


# --- identity -------------------------------------------------------------------------------------------------------


def test_the_hash_is_over_what_decides_the_content() -> None:
    base = plan_of([file()])
    assert len(base.hash) == 16
    assert base.hash[:6] in base.version
    others = [
        plan_of([file(size=1001)]),
        plan_of([file(name="b.jsonl")]),
        plan_of([file().model_copy(update={"mtime_ns": 2})]),
        plan_of([file(), file("b.jsonl")]),
        plan_of([file()], shards=2),
        plan_of([file()], unit_passages=100),
        plan_of([file()], text_field="body"),
        plan_of([file()], chunk_characters=100),
        plan_of([file()], index_kind="IVF16,Flat"),
        plan_of([file()], encoder=ENCODER.model_copy(update={"weights": "x"})),
        plan_of([file().model_copy(update={"unreadable": "may not be read"})]),
    ]
    assert len({plan.hash for plan in [base, *others]}) == len(others) + 1


def test_files_of_equal_name_size_and_time_are_told_apart(tmp_path: Path) -> None:
    hashes = set()
    for place, (one, other) in enumerate([("a", "b"), ("c", "b"), ("a", "c")]):
        path = tmp_path / str(place) / "passages.jsonl"
        path.parent.mkdir()
        texts = [one, *["x" * 500] * 1000, other]
        path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
        os.utime(path, (0, 0))  # as reproducible archives have it
        hashes.add(make_plan(settings(source=str(path)), ENCODER).hash)
    assert len(hashes) == 3
    path.rename(tmp_path / "passages.jsonl")
    assert make_plan(settings(source=str(tmp_path / "passages.jsonl")), ENCODER).hash in hashes


def test_the_hash_of_a_plan_stays_what_it_was(tmp_path: Path) -> None:
    """Builds that were interrupted go on, and published versions are found, only by the hash of before."""
    assert plan_of([file()]).hash == "4142cbc5bbc588c4"
    assert (
        plan_of([file(rows=7, group=7)], format="parquet", chunk_characters=50, lexical=True).hash == "894cc4b34ab289fa"
    )
    assert plan_of([file()], late_interaction="stored", metadata_types=["year:integer"]).hash == "1835f8a08adcf02a"
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("a.md", "b.txt"):
        (corpus / name).write_text("a text\n" * 400)
        os.utime(corpus / name, (1_700_000_000, 1_700_000_000))
    text = BuildSettings(source=str(corpus), index="root", shards=2, cut_by="length")
    assert make_plan(text, ENCODER).hash == "eb936dc59b4dbdf7"
    # Documents are cut by their headings since, so that what was built of them is built anew.
    assert make_plan(text.model_copy(update={"cut_by": "auto"}), ENCODER).hash != "eb936dc59b4dbdf7"
    (tmp_path / "a.csv").write_text("id,text,year\n" + "".join(f"{n},text {n},2020\n" for n in range(99)))
    os.utime(tmp_path / "a.csv", (1_700_000_000, 1_700_000_000))
    assert make_plan(BuildSettings(source=str(tmp_path / "a.csv"), index="root"), ENCODER).hash == "77ded2c82149b82d"


def test_the_hash_ignores_what_does_not() -> None:
    base = plan_of([file()])
    assert plan_of([file().model_copy(update={"uri": "/elsewhere/a.jsonl"})]).hash == base.hash
    assert plan_of([file()], source="./corpus", index="other", workers=3, device="cpu", threads=2).hash == base.hash
    assert plan_of([file()], encoder=ENCODER.model_copy(update={"model": "/models/hashing"})).hash == base.hash


def test_a_plan_survives_staging() -> None:
    plan = plan_of([file(), file("b.csv", offsets=[0, 10], first=5, columns=["id", "text"])])
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert datetime.fromisoformat(plan.created_at).tzinfo is not None
    assert json.loads(plan.to_bytes())["hash"] == plan.hash
    with pytest.raises(CorruptIndex, match="staging"):
        Plan.from_bytes(plan.to_bytes()[:-2])


def test_settings_hold_what_decides_the_content() -> None:
    values = plan_of([file()], shards=3, index_kind="IVF16,Flat", workers=9).settings
    assert (values["shards"], values["index_kind"], values["format"]) == (3, "IVF16,Flat", "jsonl")
    assert "workers" not in values
    json.dumps(values)


def test_a_place_is_a_file_and_a_line() -> None:
    plan = plan_of([file("a.csv", first_line=2, offsets=[0, 9])], format="csv")
    assert plan.place(plan.units[0], record=3, before=10) == {"file": "a.csv", "line": 14}
    plan = plan_of([file("a.parquet", rows=10)], format="parquet")
    assert plan.place(plan.units[0], record=3, before=5) == {"file": "a.parquet", "row": 8}
    plan = plan_of([file("a.txt"), file("b.txt")], format="text", chunk_characters=1000)
    assert plan.place(plan.units[0], record=2, before=0) == {"file": "b.txt"}


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "1", "text": "one"}\n{"id": "2", "text": "two"}\n')
    return path


def test_planning_twice_gives_the_same_plan(corpus: Path) -> None:
    asked = settings(source=str(corpus))
    first, second = make_plan(asked, ENCODER), make_plan(asked, ENCODER)
    assert first.model_copy(update={"version": "", "created_at": ""}) == second.model_copy(
        update={"version": "", "created_at": ""}
    )
    assert first.estimated_passages == 2
    assert list(first.units) == [Unit(0, 0, 0, corpus.stat().st_size)]


def test_defaults_are_resolved_by_format(corpus: Path) -> None:
    assert make_plan(settings(source=str(corpus)), ENCODER).source.id_field == "id"
    source = make_plan(settings(source=str(corpus.parent), format="auto"), ENCODER).source
    assert (source.format, source.id_field, source.title_field) == ("beir", "_id", "title")
    (corpus.parent / "note.md").write_text("# A note")
    source = make_plan(settings(source=str(corpus.parent), format="text"), ENCODER).source
    assert (source.format, source.chunk_characters) == ("text", 1000)


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"columns": ["id", "text"]}, "columns"),
        ({"chunk_overlap": 10}, "chunk_overlap"),
        ({"vectors_field": "v", "format": "csv"}, "vectors_field"),
        ({"vectors_field": "v", "format": "text"}, "vectors_field"),
        ({"vectors_field": "v", "chunk_characters": 100}, "vectors_field"),
        ({"vectors_field": "text"}, "vectors_field"),
        ({"vectors_field": "v", "metadata_fields": ["v"]}, "vectors_field"),
        ({"vectors_field": "v", "metadata_types": ["v:list"]}, "metadata_types"),
        ({"chunk_overlap": 100, "chunk_characters": 100}, "chunk_overlap"),
        ({"format": "csv", "columns": ["id", "id"]}, "columns"),
    ],
)
def test_settings_that_contradict_one_another(corpus: Path, values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_plan(settings(source=str(corpus), **values), ENCODER)
    assert caught.value.param == param
