"""Reads a source from its listing to its last record, as a build does."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from shoal.fingerprint import Fingerprint
from shoal.index_root.storage import Storage
from shoal.indexing.plan import Plan, make_plan
from shoal.indexing.spool import spool
from shoal.indexing.unit_input import read_unit
from shoal.records import Passage
from shoal.settings import BuildSettings
from shoal.sources import Rejected

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
Item = tuple[dict[str, Any], Passage | str]


class Reading:
    """Everything that a source gives: passages and reasons of rejected records, each with its place."""

    def __init__(self, source: Path | str, root: Path | str, **values: Any) -> None:
        settings = BuildSettings(source=str(source), index=str(root), **values)
        self.storage = Storage(str(root))
        self.plan: Plan = spool(make_plan(settings, ENCODER), self.storage)
        self.items: list[Item] = []
        self.rejected: list[Rejected] = []
        self.left_out: Counter[str] = Counter()
        self.records = 0  # places that gave a passage or a reason
        before: dict[int, int] = {}
        for unit in self.plan.units:
            reader = read_unit(self.plan, unit, self.storage)
            places = set[int]()
            for item in reader:
                if isinstance(item, Rejected):
                    self.rejected.append(item)
                record, content = (item.record, item.reason) if isinstance(item, Rejected) else item
                places.add(record)
                self.items.append((self.plan.place(unit, record, before.get(unit.file, 0)), content))
            self.left_out += reader.left_out
            before[unit.file] = before.get(unit.file, 0) + reader.lines
            self.records += len(places)

    @property
    def passages(self) -> list[Passage]:
        return [item for _, item in self.items if isinstance(item, Passage)]

    @property
    def reasons(self) -> list[str]:
        return [item for _, item in self.items if isinstance(item, str)]


def json_lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)
