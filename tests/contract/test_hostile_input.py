"""The HTTP application against input that nobody means well: no 5xx, no hang, no stack trace.

In the test suite a few hundred requests, the same each time. `SHOAL_FUZZ_REQUESTS=100000` sends so many, others each
time; CONTRIBUTING.md has the command. The server behind it is the real one, in this process and without Ray.

Long because the inputs stand beside the one server and the one judgement of answers that all of them share.
"""

import asyncio
import base64
import collections
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from serve.web.access import KeyRing
from serve.web.api import create_api
from shoal.records import Passage
from shoal.serving import keys
from shoal.settings import LexicalSettings, ServeSettings
from tests.support.engine import local_engine
from tests.support.filtering import POOLS, TYPES, documents
from tests.support.indexes import publish

REQUESTS = int(os.environ.get("SHOAL_FUZZ_REQUESTS", "400"))
LONG = "SHOAL_FUZZ_REQUESTS" in os.environ
TOGETHER = 4
"""Requests that are sent at once."""
HANG_S = 900.0
"""Far beyond every limit of the server, on a machine that has other things to do: what takes longer never ends."""
PATIENT_MS = 300_000
ENDLESS = b" " * (17 * 2**20)
"""What a body without an end brings at a time, beyond all limits."""
KEY = keys.make()
ROUND = 500
"""Examples after which hypothesis begins anew: it remembers all that it has tried."""
FUZZ = settings(
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if LONG else [Phase.generate, Phase.shrink],
)
TRACES = re.compile(r'Traceback|File \\?"|\.py\b|site-packages|0x[0-9a-f]{8}')


# --- JSON that Python's own writer would not write ------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """A piece of JSON, or of what looks like it, as it is sent."""

    text: str


class Members(list[tuple[str, Any]]):
    """An object whose keys may repeat."""


def written(value: Any) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Members | dict):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ", ".join(f"{json.dumps(key)}: {written(inner)}" for key, inner in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


CHARACTERS = st.one_of(
    st.characters(),
    st.sampled_from("\0\b\t\n\r\x1b\x7f\x85\u200b\u200d\u202e\u2028\ufeff\ufffd\ufffe\ud800\udfff\U0001f41f\u0301ﷺ"),
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=12),
    st.builds(lambda part, times: part * times, st.text(CHARACTERS, min_size=1, max_size=3), st.integers(1, 9000)),
    st.sampled_from(["", " ", "fish", "../../etc/passwd", "%s%n", "{{7*7}}", "' OR 1=1 --", "<script>", "n" * 8192]),
)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, -0.0, 1e308, 5e-324]),
    st.sampled_from(
        [
            "NaN",
            "-Infinity",
            "1e400",
            "-1e400",
            "1E+2",
            "0.0000",
            "01",
            "+1",
            ".5",
            "1.",
            "0x10",
            "1_0",
            "--1",
            "9" * 5000,
        ]
    ).map(Raw),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
DEEP = st.builds(
    lambda depth, opening, closing, inner: Raw(opening * depth + inner + closing * depth),
    st.sampled_from([5, 15, 16, 17, 99, 1000, 20_000]),
    *[st.shared(st.sampled_from(range(5)), key="nest").map(part.__getitem__) for part in (
        ["[", '{"$and": [', '{"$not": ', '{"a":', '{"year": {"$not": '],
        ["]", "]}", "}", "}", "}}"],
    )],
    st.sampled_from(["", "1", "{}", '{"year": 1}', "null"]),
)  # fmt: skip
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALARS | DEEP,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.tuples(TEXTS, inner), max_size=4).map(Members),
    ),
    max_leaves=6,
)


# --- requests -------------------------------------------------------------------------------------------------------

OPERATORS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not", "$and", "$or", "$regex", "$"]
WORDS = st.sampled_from([*TYPES, "none", "", "year.x"]) | st.sampled_from(OPERATORS)
FILTERS: st.SearchStrategy[Any] = st.one_of(
    documents(),
    documents(),
    ANYTHING,
    st.recursive(
        SCALARS | st.sampled_from([value for pool in POOLS.values() for value in pool]),
        lambda inner: st.one_of(
            st.lists(st.tuples(WORDS, inner), max_size=3).map(Members),
            st.lists(inner, max_size=3),
        ),
        max_leaves=12,
    ),
    st.builds(
        lambda field, operator, value, count: {field: {operator: [value] * count}},
        st.sampled_from(list(TYPES)),
        st.sampled_from(["$in", "$nin"]),
        NUMBERS | st.sampled_from([value for pool in POOLS.values() for value in pool]),
        st.integers(990, 1010),
    ),
    st.builds(lambda part, count: {"$or": [part] * count}, documents(), st.integers(400, 1010)),
)
QUERIES: st.SearchStrategy[Any] = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.sampled_from(["fish", "the otter number n7", "größe 日本 🐟"]),
    TEXTS,
    st.lists(TEXTS, max_size=5),
    st.builds(lambda count: ["fish"] * count, st.integers(0, 80)),
)
SIZES: st.SearchStrategy[Any] = st.integers(1, 60) | NUMBERS | ANYTHING
VECTORS: st.SearchStrategy[Any] = st.one_of(
    st.builds(lambda number, dim: [number] * dim, NUMBERS, st.sampled_from([64] * 5 + [0, 1, 63, 65, 5000])),
    st.binary(max_size=300).map(lambda content: base64.b64encode(content).decode()),
    st.binary(min_size=256, max_size=256).map(lambda content: base64.b64encode(content).decode()),
    st.lists(st.builds(lambda number: [number] * 64, NUMBERS), max_size=4),
    ANYTHING,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "top_k": SIZES,
    "top_n": SIZES,
    "rerank": st.booleans() | ANYTHING,
    "mode": st.sampled_from(["dense", "lexical", "hybrid"]) | ANYTHING,
    "filter": FILTERS,
    "include": st.lists(st.sampled_from(["text", "metadata", "vector", "", "Text"]), max_size=6) | ANYTHING,
    # Every deadline that is accepted is ample, so that even a 504 would be a fault.
    "timeout_ms": st.integers(PATIENT_MS, 600_001) | st.integers(max_value=0) | st.floats() | st.text(max_size=3),
    "explain": st.booleans() | ANYTHING,
    "vector": VECTORS,
    "id": st.sampled_from(["p1", "nothing", ""]) | ANYTHING,
}
MEMBERS = st.one_of(*(st.tuples(st.just(name), values) for name, values in FIELDS.items()))
SEARCHES: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries({"query": QUERIES}, optional=FIELDS),
    st.builds(lambda query, rest: Members([("query", query), *rest]), QUERIES, st.lists(MEMBERS, max_size=3)),
    st.fixed_dictionaries({"vector": VECTORS}, optional={name: FIELDS[name] for name in ("top_k", "mode", "explain")}),
    st.builds(
        lambda query, rest, more: Members([("query", query), *rest, *more]),
        QUERIES,
        st.lists(MEMBERS, max_size=4),
        st.lists(st.tuples(TEXTS, ANYTHING) | st.tuples(st.just("query"), QUERIES), max_size=2),
    ),
    ANYTHING,
)
VERSIONS = st.sampled_from(
    [
        "v1",
        "v2",
        "v3",
        "",
        ".",
        "..",
        "../v1",
        "v1/../v2",
        "/etc/passwd",
        "v1\0",
        "v1/",
        "CURRENT",
        "v" * 256,
        "ü",
        "\ud800",
    ]
)
ADMINISTRATION = st.one_of(
    st.fixed_dictionaries({"version": VERSIONS}),
    st.just({}),
    st.lists(st.tuples(st.just("version") | TEXTS, VERSIONS | ANYTHING), max_size=2).map(Members),
    ANYTHING,
)
TYPES_OF_INPUT = st.sampled_from(["query", "passage"]) | ANYTHING
OWN_EMBEDDINGS: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"inputs": QUERIES | ANYTHING, "input_type": TYPES_OF_INPUT},
        optional={
            "include": st.lists(st.sampled_from(["vector", "tokens", "text"]), max_size=3) | ANYTHING,
            "dimensions": SIZES,
            "timeout_ms": FIELDS["timeout_ms"],
        },
    ),
    ANYTHING,
)
OWN_DOCUMENTS = st.one_of(
    TEXTS,
    ANYTHING,
    st.fixed_dictionaries({"text": TEXTS | ANYTHING}, optional={"id": TEXTS | ANYTHING, "title": TEXTS | ANYTHING}),
)
OWN_RERANKS: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"query": QUERIES | ANYTHING, "documents": st.lists(OWN_DOCUMENTS, max_size=5) | ANYTHING},
        optional={
            "top_n": SIZES,
            "return_documents": st.booleans() | ANYTHING,
            "timeout_ms": FIELDS["timeout_ms"],
        },
    ),
    ANYTHING,
)
DOCUMENTS: st.SearchStrategy[Any] = st.one_of(
    st.lists(
        st.one_of(TEXTS, st.fixed_dictionaries({"text": TEXTS}, optional={"id": ANYTHING, "title": TEXTS})), max_size=5
    ),
    st.lists(st.dictionaries(st.sampled_from(["text", "body", "title", "id"]), ANYTHING, max_size=3), max_size=3),
    st.builds(lambda text, count: [text] * count, TEXTS, st.integers(990, 1010)),
    ANYTHING,
)
MODELS = st.sampled_from(["overlap", "hashing:64", "hashing:64:query", "other", ""]) | ANYTHING
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "model": MODELS,
    "top_n": SIZES,
    "top_k": SIZES,
    "return_documents": st.booleans() | ANYTHING,
    "return_text": st.booleans() | ANYTHING,
    "raw_scores": st.booleans() | ANYTHING,
    "truncate": st.booleans() | ANYTHING,
    "rank_fields": st.lists(TEXTS | st.just("text"), max_size=3) | ANYTHING,
    "parameters": st.fixed_dictionaries({}, optional={"input_type": TEXTS, "truncate": st.just("NONE") | TEXTS})
    | ANYTHING,
    "encoding_format": st.sampled_from(["float", "base64"]) | ANYTHING,
    "dimensions": st.just(64) | SIZES,
    "input_type": st.sampled_from(["query", "passage"]) | ANYTHING,
    "prompt_name": st.sampled_from(["query", "passage"]) | ANYTHING,
}
RERANKS: st.SearchStrategy[Any] = st.one_of(
    *[
        st.builds(
            lambda query, documents, rest, name=name: Members([("query", query), (name, documents), *rest]),
            QUERIES,
            DOCUMENTS,
            st.lists(st.one_of(*(st.tuples(st.just(name), values) for name, values in OPTIONS.items())), max_size=3),
        )
        for name in ("documents", "documents", "texts")
    ],
    ANYTHING,
)
EMBEDDINGS: st.SearchStrategy[Any] = st.one_of(
    *[
        st.builds(
            lambda texts, rest, name=name: Members([(name, texts), *rest]),
            QUERIES | DOCUMENTS | st.lists(st.lists(st.integers(), max_size=3), max_size=3),
            st.lists(st.one_of(*(st.tuples(st.just(name), values) for name, values in OPTIONS.items())), max_size=3),
        )
        for name in ("input", "inputs")
    ],
    ANYTHING,
)
CONDITIONS: st.SearchStrategy[Any] = st.lists(
    st.fixed_dictionaries(
        {"name": WORDS | ANYTHING},
        optional={
            "comparison_operator": st.sampled_from(["is", "in", "empty", "contains", "start with", "≥", "before"])
            | TEXTS,
            "value": ANYTHING,
        },
    ),
    max_size=3,
)
RETRIEVALS: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {
            "knowledge_id": st.just("default") | TEXTS,
            "query": QUERIES,
            "retrieval_setting": st.fixed_dictionaries({"top_k": SIZES}, optional={"score_threshold": NUMBERS})
            | ANYTHING,
        },
        optional={
            "metadata_condition": st.fixed_dictionaries({"conditions": CONDITIONS | ANYTHING}) | ANYTHING,
        },
    ),
    ANYTHING,
)
GIVEN_VECTORS = st.lists(st.floats(-1, 1), min_size=64, max_size=64) | st.lists(NUMBERS, max_size=3) | ANYTHING
NEAREST: st.SearchStrategy[Any] = st.one_of(
    *[
        st.fixed_dictionaries(
            {"topK": SIZES, name: values},
            optional={
                "filter": FILTERS,
                "namespace": st.sampled_from(["", "__default__", "x"]) | ANYTHING,
                "includeMetadata": st.booleans() | ANYTHING,
                "includeValues": st.booleans() | ANYTHING,
            },
        )
        for name, values in (("vector", GIVEN_VECTORS), ("id", st.sampled_from(["p1", "none"]) | ANYTHING))
    ],
    ANYTHING,
)
RECORDS: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {
            "query": st.fixed_dictionaries(
                {"top_k": SIZES},
                optional={
                    "inputs": st.fixed_dictionaries({"text": TEXTS}) | ANYTHING,
                    "vector": st.fixed_dictionaries({"values": GIVEN_VECTORS}) | ANYTHING,
                    "id": st.just("p1") | TEXTS,
                    "filter": FILTERS,
                },
            )
            | ANYTHING
        },
        optional={
            "fields": st.lists(TEXTS | st.just("text"), max_size=3) | ANYTHING,
            "rerank": st.fixed_dictionaries(
                {"model": st.just("overlap") | MODELS, "rank_fields": st.just(["text"]) | ANYTHING},
                optional={"top_n": SIZES, "query": TEXTS},
            )
            | ANYTHING,
        },
    ),
    ANYTHING,
)
FETCHES_BY_METADATA: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"filter": FILTERS},
        optional={
            "limit": SIZES,
            "paginationToken": TEXTS | ANYTHING,
            "namespace": st.sampled_from(["", "__default__", "x"]) | ANYTHING,
        },
    ),
    ANYTHING,
)
NAMES = st.sampled_from(["index", "new", "../x", "", "x" * 64, "UPPER"]) | TEXTS
NEW_INDEXES: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"name": NAMES, "dimension": SIZES},
        optional={"metric": st.sampled_from(["cosine", "dotproduct"]) | ANYTHING, "spec": ANYTHING, "tags": ANYTHING},
    ),
    st.fixed_dictionaries(
        {"name": NAMES, "embed": st.fixed_dictionaries({"model": MODELS}, optional={"field_map": ANYTHING}) | ANYTHING},
        optional={"cloud": TEXTS, "region": TEXTS},
    ),
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={"encoder": MODELS, "dimension": SIZES, "text_field": TEXTS, "metadata_types": ANYTHING},
    ),
    ANYTHING,
)
VENDORS = {
    "/i/index/query": NEAREST,
    "/i/index/vectors/fetch_by_metadata": FETCHES_BY_METADATA,
    "/indexes/create-for-model": NEW_INDEXES,
    "/i/index/describe_index_stats": ANYTHING | st.just({}),
    "/i/index/records/namespaces/__default__/search": RECORDS,
    "/indexes": NEW_INDEXES,
    "/v1/rerank": RERANKS | OWN_RERANKS,
    "/v1/embed": OWN_EMBEDDINGS,
    "/v2/rerank": RERANKS,
    "/rerank": RERANKS,
    "/embed": EMBEDDINGS,
    "/v1/embeddings": EMBEDDINGS,
    "/retrieval": RETRIEVALS,
}
IDS = st.sampled_from(["p1", "p2", "new", "", " ", "a#1", "../x", "x" * 513, "\ud800"]) | TEXTS
VECTORS = st.one_of(
    st.lists(st.floats(-1e38, 1e38) | NUMBERS, min_size=62, max_size=66),
    st.sampled_from([[0.0] * 64, [1.0] * 64, "AACAPw==" * 64, "AACAPw==", "@", ""]),
    ANYTHING,
)
METADATA: st.SearchStrategy[Any] = st.one_of(
    st.dictionaries(WORDS | TEXTS, SCALARS | st.lists(TEXTS, max_size=3), max_size=4),
    ANYTHING,
)
PASSAGES: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries(
        {"id": IDS},
        optional={
            "text": TEXTS,
            "title": TEXTS,
            "metadata": METADATA,
            "vector": VECTORS,
            "if": st.sampled_from([{"absent": True}, {"position": 0}, {}, {"position": -1}]) | ANYTHING,
        },
    ),
    ANYTHING,
)
WRITES = {
    "/i/index/vectors/upsert": st.one_of(
        st.fixed_dictionaries(
            {
                "vectors": st.lists(
                    st.fixed_dictionaries({"id": IDS, "values": VECTORS}, optional={"metadata": METADATA}) | ANYTHING,
                    max_size=4,
                )
            },
            optional={"namespace": st.sampled_from(["", "__default__"]) | TEXTS},
        ),
        ANYTHING,
    ),
    "/i/index/vectors/update": st.one_of(
        st.fixed_dictionaries({"id": IDS}, optional={"values": VECTORS, "setMetadata": METADATA, "filter": FILTERS}),
        ANYTHING,
    ),
    "/i/index/vectors/delete": st.one_of(
        st.fixed_dictionaries({}, optional={"ids": st.lists(IDS, max_size=4), "filter": FILTERS}),
        ANYTHING,
    ),
    "/i/index/records/namespaces/__default__/upsert": st.one_of(
        st.fixed_dictionaries({"_id": IDS, "text": TEXTS}, optional={"x": SCALARS, "metadata": METADATA}), ANYTHING
    ),
    "/v1/passages/fetch": st.one_of(
        st.fixed_dictionaries(
            {"ids": st.lists(IDS, max_size=4) | ANYTHING},
            optional={"include": FIELDS["include"], "namespace": TEXTS, "min_position": SIZES},
        ),
        ANYTHING,
    ),
    "/v1/passages": st.fixed_dictionaries({"passages": st.lists(PASSAGES, max_size=4)}) | ANYTHING,
    "/v1/passages/delete": st.one_of(
        st.fixed_dictionaries({}, optional={"ids": st.lists(IDS, max_size=4), "filter": FILTERS}),
        ANYTHING,
    ),
    "/v1/passages/update": st.one_of(
        st.fixed_dictionaries(
            {
                "updates": st.lists(
                    st.fixed_dictionaries({"id": IDS, "metadata": METADATA}, optional={"merge": st.booleans()}),
                    max_size=4,
                )
            }
        ),
        ANYTHING,
    ),
}
DEFAULT = {"/v1/search": SEARCHES, "/v1/index/activate": ADMINISTRATION, "/v1/index/rollback": ADMINISTRATION}
"""Bodies of Shoal's own routes of the default index, beside what VENDORS and WRITES have of them."""
NAMED = {
    f"/v1/indexes/index{path.removeprefix('/v1')}": bodies
    for path, bodies in (DEFAULT | VENDORS | WRITES).items()
    if path in DEFAULT or path.startswith("/v1/passages") or path == "/v1/embed"
}
"""The same for the index by its name."""
BODIES = DEFAULT | VENDORS | WRITES | NAMED | {"/v1/indexes": NEW_INDEXES}
OTHER_PATHS = [
    *(
        "/v1/models",
        "/v1/models/",
        "/v1/models/hashing:64",
        "/models",
        "/models/overlap",
        "/models?type=x",
        "/info",
        "/health",
        "/indexes",
        "/indexes/index",
        "/i/index/vectors/fetch",
        "/i/index/vectors/list",
        "/i/index/namespaces",
        "/i/index/namespaces/x",
        "/i/x/vectors/list",
        "/v1/passages?prefix=p&limit=3",
        "/v1/indexes/index",
        "/v1/indexes/x/index",
    ),
    *(
        f"/v1{index}{path}"
        for index in ("", "/indexes/index")
        for path in ("/index/versions", "/namespaces", "/namespaces/x")
    ),
    *(
        "/v1/index",
        "/v1/indexes/index/index",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/v1/search/",
        "/",
        "//",
        "/v1/../x",
    ),
]
PATHS = st.sampled_from(
    [
        *[st.just("/v1/search")] * 14,
        *[st.sampled_from(list(VENDORS))] * 14,
        *[st.sampled_from(list(WRITES))] * 6,
        *[st.sampled_from(["/v1/index/activate", "/v1/index/rollback"])] * 2,
        *[st.sampled_from([*NAMED, "/v1/indexes"])] * 3,
        *[st.sampled_from(OTHER_PATHS)] * 3,
        st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: "/" + text),
    ]
).flatmap(lambda chosen: chosen)
TOKENS = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
LENGTHS = ["0", "-1", "abc", "1000001", "9" * 30, "1e3", "²", "0x10", "5, 5", ""]
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just("x-request-id"), TOKENS | st.just("x" * 5000)),
        st.tuples(st.just("content-length"), st.sampled_from(LENGTHS)),
        st.tuples(st.just("content-encoding"), st.sampled_from(["gzip", "br", "identity", "x"])),
        st.tuples(
            st.sampled_from(["accept", "accept-encoding", "host", "cookie", "origin", "range", "expect"]), TOKENS
        ),
        st.tuples(st.just("transfer-encoding"), st.sampled_from(["chunked", "gzip, chunked"])),
    ),
    max_size=3,
)
CONTENT_TYPES = st.sampled_from(
    [
        *["application/json"] * 12,
        *("application/json; charset=utf-8", "application/json; charset=utf-16", "APPLICATION/JSON", "text/json"),
        *("text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"),
        *("application/vnd.api+json", "application/json;", ";", "a/b/c", "application/json, text/plain", "\xff"),
    ]
)
RIGHT = st.sampled_from([("authorization", f"Bearer {KEY}"), ("authorization", KEY), ("x-api-key", KEY)])
WRONG = st.tuples(st.sampled_from(["authorization", "api-key", "x-api-key"]), TOKENS | st.just("Bearer x"))
CREDENTIALS = st.sampled_from([RIGHT] * 15 + [WRONG]).flatmap(lambda chosen: chosen)
ENCODINGS = st.sampled_from(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-7", "ascii"])
DAMAGE = st.sampled_from([b"", b"", b"", b"", b"", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\0", b"}", b"\n\n", b","])
ENDS = st.sampled_from(["whole"] * 12 + ["stalled", "endless", "gone", "cut"])


@dataclass(frozen=True)
class Attack:
    method: str
    path: str
    query: bytes
    headers: list[tuple[str, str]]
    body: bytes
    pieces: int
    end: str
    """How the body goes on after its pieces: whole, stalled, endless, gone (the client), cut (in the middle)."""


@st.composite
def attacks(draw: st.DrawFn) -> Attack:
    path = draw(PATHS)
    content = draw(BODIES.get(path, ANYTHING))
    body = written(content).encode(draw(ENCODINGS), errors="replace")
    body = draw(st.sampled_from([body] * 15 + [b"", body[: len(body) // 2]]))
    place = draw(st.integers(0, len(body)))
    body = body[:place] + draw(DAMAGE) + body[place:]
    usual = "POST" if path in BODIES else "GET"
    method = draw(st.sampled_from([usual] * 60 + ["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "X"]))
    headers = [("content-type", draw(CONTENT_TYPES)), draw(CREDENTIALS), *draw(HEADERS)]
    query = draw(st.sampled_from([b"", b"", b"", b"a=b", b"%00%ff&&=", b"\xff", b"x" * 4000]))
    return Attack(method, path, query, headers, body, draw(st.integers(1, 4)), draw(ENDS))


# --- the server and how it is asked -----------------------------------------------------------------------------------


@dataclass
class Reply:
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str:
        found = [value for key, value in self.headers if key == name.encode()]
        assert len(found) == 1, (name, self.headers)
        return found[0].decode("latin-1")


class Server:
    """The application, in an event loop of its own that stays."""

    def __init__(self, folder: Path) -> None:
        content = [
            Passage(f"p{number}", f"the otter number n{number} größe 日本", "title" if number % 3 else None, metadata)
            for number in range(60)
            if (
                metadata := {name: pool[number % len(pool)] for name, pool in POOLS.items() if (number + len(name)) % 4}
            )
            is not None
        ]
        for metadata in (passage.metadata for passage in content):
            if "tags" in metadata:
                metadata["tags"] = [metadata["tags"]]  # type: ignore[index]
        root = folder / "index"
        for version in ("v1", "v2"):
            publish(
                root,
                version,
                content,
                lexical=LexicalSettings(lexical_language="none"),
                activate=version == "v1",
                writable=True,
            )
        limits = ServeSettings(
            index=str(root),
            encoder="hashing:64",
            reranker="overlap",
            body_timeout_s=0.02,
            timeout_ms=PATIENT_MS,
            max_timeout_ms=600_000,
            shard_patience_ms=PATIENT_MS,  # a starved process would go on without a shard
        )
        self.runner = asyncio.Runner()
        self.engine = self.runner.run(local_engine(limits))
        self.app: FastAPI = create_api(self.engine, limits, keys=KeyRing(None, keys.line(KEY, "fuzz", "admin")))
        self.seen: collections.Counter[int] = collections.Counter()

    def run(self, attacks: list[Attack]) -> list[Reply]:
        return self.runner.run(self._together(attacks))

    async def _together(self, attacks: list[Attack]) -> list[Reply]:
        async with asyncio.timeout(HANG_S):
            return list(await asyncio.gather(*map(self._exchange, attacks)))

    async def _exchange(self, attack: Attack) -> Reply:
        size = -(-len(attack.body) // attack.pieces) or 1
        pieces = [attack.body[start : start + size] for start in range(0, len(attack.body), size)] or [b""]
        if attack.end == "cut":
            pieces = pieces[: len(pieces) // 2 + 1]
        reply = Reply()

        async def receive() -> dict[str, Any]:
            if len(pieces) > 1 or (pieces and attack.end != "whole"):
                return {"type": "http.request", "body": pieces.pop(0), "more_body": True}
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": False}
            if attack.end == "endless":  # more than any limit at once: in small parts it may be too slow first
                return {"type": "http.request", "body": ENDLESS, "more_body": True}
            if attack.end in ("gone", "cut"):
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                assert not reply.status
                reply.status, reply.headers = message["status"], list(message.get("headers", []))
            else:
                reply.body += message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": attack.method,
            "path": attack.path,
            "raw_path": attack.path.encode(errors="replace"),
            "query_string": attack.query,
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in attack.headers],
            "server": ("shoal", 80),
            "client": ("127.0.0.1", 1),
        }
        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return reply


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("hostile"))
    yield server
    server.runner.close()


def fuzz(test: Callable[[Any], None], inputs: st.SearchStrategy[Any], examples: int) -> None:
    for done in range(0, examples, ROUND):
        settings(FUZZ, max_examples=min(ROUND, examples - done))(given(inputs)(test))()
        if LONG:
            print(f"{min(done + ROUND, examples)} of {examples} examples", flush=True)


def check(attack: Attack, reply: Reply) -> None:
    """What holds for every answer."""
    assert 200 <= reply.status < 500, (reply.status, reply.body)
    text = reply.body.decode()
    if reply.status >= 400 and attack.method != "HEAD":
        assert not TRACES.search(text.replace(attack.path, "")), text
        assert len(text) < 20_000
        body = json.loads(text)
        if "error_type" in body:  # that of text-embeddings-inference
            assert attack.path in ("/rerank", "/embed", "/info", "/health")
            assert body["error"] != ""
        else:
            error = body["error"]
            assert body["status"] == reply.status
            assert error["message"] == body["message"] == body["detail"] != ""
            assert error["code"].isupper()
        assert KEY not in text
        assert attack.path != "/v1/search" or tempfile.gettempdir() not in text
        assert reply.header("content-type") == "application/json"
        assert ("retry-after" in dict(reply.headers)) if reply.status == 429 else True, reply.headers
    elif attack.path == "/v1/search" and attack.method == "POST":
        answers = json.loads(text)
        for answer in answers.get("responses", [answers]):
            assert answer["coverage"]["fraction"] == 1
            assert answer["degraded"] is None
            assert answer["reranked"] or not answer["usage"]["pairs"]
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", reply.header("x-request-id"))


def test_no_input_makes_the_server_fail_hang_or_tell_of_itself(server: Server) -> None:
    def attack(together: list[Attack]) -> None:
        for one, reply in zip(together, server.run(together), strict=True):
            check(one, reply)
            server.seen[reply.status] += 1

    fuzz(attack, st.lists(attacks(), min_size=TOGETHER, max_size=TOGETHER), REQUESTS // TOGETHER)
    print("answers by status:", dict(sorted(server.seen.items())))
    # It has not only refused: what is tried reaches the search.
    assert {200, 400, 401, 404, 413, 415} <= set(server.seen)
    for plain in (
        sent(b'{"query": "n7"}'),
        sent(b'{"inputs": ["n7"], "input_type": "query"}', path="/v1/embed"),
        sent(b'{"query": "n7", "documents": ["n7"]}', path="/v1/rerank"),
        sent(b'{"passages": [{"id": "p7", "text": "the otter number n7"}]}', path="/v1/passages"),
    ):
        (reply,) = server.run([plain])
        assert reply.status == 200
        check(plain, reply)


def test_every_route_is_attacked(server: Server) -> None:
    """With bodies that nearly make sense where it takes one."""
    others = [path.partition("?")[0] for path in OTHER_PATHS]
    for path, operations in server.app.openapi()["paths"].items():
        route = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
        for method in operations:
            tried = BODIES if method == "post" else [*BODIES, *others]
            assert any(route.fullmatch(each) for each in tried), (method, path)


def sent(body: bytes, pieces: int = 1, end: str = "whole", path: str = "/v1/search") -> Attack:
    """A request, a search unless another path is named, with the right headers."""
    headers = [("content-type", "application/json"), ("x-api-key", KEY)]
    return Attack("POST", path, b"", headers, body, pieces, end)


@pytest.mark.parametrize(
    ("end", "status", "code"), [("stalled", 408, "BODY_TIMEOUT"), ("endless", 413, "PAYLOAD_TOO_LARGE")]
)
def test_a_body_that_does_not_end_is_cut_off_and_the_connection_with_it(
    end: str, status: int, code: str, server: Server
) -> None:
    body = b'{"query": "' + b"fish " * 100
    for reply in server.run([sent(body, pieces, end) for pieces in (1, 2, 10)]):
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (status, code)
        assert reply.header("connection") == "close"
    whole = sent(b'{"query": "fish"}', pieces=3)
    answered, *interrupted = server.run([whole, sent(body, 4, "gone"), sent(body, 4, "cut")])
    assert answered.status == 200
    assert all(reply.status < 500 for reply in interrupted)


@schemathesis.serializer("application/x-ndjson")
def _lines(context: Any, value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


def test_the_openapi_document_is_kept_by_every_answer(server: Server) -> None:
    schema = schemathesis.openapi.from_dict(server.app.openapi())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 6
    strategies = [
        operation.as_strategy(mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or operation.body
    ]
    promises = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]
    seen: collections.Counter[int] = collections.Counter()

    async def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://shoal")
        if isinstance(sent.get("json"), dict) and isinstance(sent["json"].get("timeout_ms"), int):
            # A deadline that is too short to be kept is answered with 504, as it should be.
            sent["json"]["timeout_ms"] += PATIENT_MS if 0 < sent["json"]["timeout_ms"] < PATIENT_MS else 0
        for fields in (sent.get("json"), sent.get("params")):
            if isinstance(fields, dict) and isinstance(fields.get("min_position"), int):
                # One that the log does not reach is waited for until the deadline, and answered alike.
                fields["min_position"] = min(fields["min_position"], 0)
        sent["content"] = sent.pop("data", None)
        kept = ("method", "url", "headers", "json", "content", "params")
        sent = {name: value for name, value in sent.items() if name in kept}
        # Refusals of wrong keys have their own tests.
        others = {name: value for name, value in (sent.get("headers") or {}).items() if name.lower() != "authorization"}
        sent["headers"] = {**others, "authorization": f"Bearer {KEY}"}
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport) as client, asyncio.timeout(HANG_S):
            response = await client.request(**sent)
        seen[response.status_code] += 1
        case.validate_response(response, checks=promises)

    def conforms(case: Any) -> None:
        server.runner.run(ask(case))

    fuzz(conforms, st.one_of(*strategies), REQUESTS // 4)
    print("answers by status:", dict(sorted(seen.items())))
    assert {200, 400} <= set(seen)
