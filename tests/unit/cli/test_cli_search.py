"""The commands that ask a server: search and compare."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import shoal.cli.server
from shoal.client import clients as client
from tests.support.command_line import run
from tests.support.indexes import passages, publish


class Server:
    """Stands behind the commands that speak HTTP."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.answer: httpx.Response | Exception | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or httpx.Response(200, json=answered(body))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    def connect(url: str, **options: Any) -> client.Client:
        return client.Client(url, transport=httpx.MockTransport(server.handle), attempts=1, **options)

    monkeypatch.setattr(shoal.cli.server, "Client", connect)
    return server


def answered(body: dict[str, Any], reranked: bool = True, degraded: str | None = None) -> dict[str, Any]:
    """Five candidates that reranking puts into the opposite order."""
    ranks = [5, 4, 3, 2, 1] if reranked else [1, 2, 3, 4, 5]
    results = [
        {
            "id": f"doc-{rank}",
            "score": 1 - place / 10 if reranked else 0.9 - rank / 10,
            "retrieval_score": 0.9 - rank / 10,
            "retrieval_rank": rank,
            "rerank_score": 1 - place / 10 if reranked else None,
            **({"title": f"Title {rank}"} if rank % 2 else {}),
            "text": f"text number {rank} [bold]not markup[/bold] \x1b[31m " + "and so on " * 40,
            "metadata": {},
        }
        for place, rank in enumerate(ranks)
    ]
    return {
        "id": "r", "index_version": "v1", "results": results[: body.get("top_n", 5)], "reranked": reranked,
        "coverage": {"shards": 4, "answered": 3, "fraction": 0.75, "missing": [{"shard": 2, "reason": "deadline"}]},
        "degraded": degraded, "timings_ms": {"encode": 1.25, "total": 12.5}, "usage": {},
    }  # fmt: skip


def test_search_shows_both_stages(server: Server) -> None:
    result = run("search", "how", "do", "fish", "sleep", "--top-k", "5", "--top-n", "3", "--timeout-ms", "700")
    assert result.exit_code == 0
    assert server.bodies == [{"query": "how do fish sleep", "top_k": 5, "top_n": 3, "timeout_ms": 700}]
    rows = [line.split() for line in result.stdout.splitlines() if "doc-" in line]
    assert rows[0][:8] == ["1", "1.0000", "▲", "5", "0.4000", "doc-5", "Title", "5"]
    assert rows[2][:6] == ["3", "0.8000", "=", "3", "0.6000", "doc-3"]
    assert "version v1, dense, 3 of 4 shards answered (75% of the passages)" in result.stdout
    assert "12.5 ms: encode 1.2" in result.stdout
    assert "degraded" not in result.stdout


def test_a_passage_of_a_document_is_shown_with_its_page_and_a_document_once(server: Server) -> None:
    body = answered({})
    for result in body["results"]:
        result.update(id=f"a.pdf#{result['id'][-1]}", group="a.pdf", metadata={"_page": 7})
    server.answer = httpx.Response(200, json=body)
    shown = run("search", "fish", "--group-by", "$document", COLUMNS="120").stdout
    assert "a.pdf#5, page 7" in shown
    assert "group" not in shown
    for result in body["results"]:
        result.update(group="red")
    server.answer = httpx.Response(200, json=body)
    assert "group" in run("search", "fish", "--group-by", "colour", COLUMNS="120").stdout


@pytest.mark.parametrize("command", ["search", "compare"])
@pytest.mark.parametrize("columns", [50, 60, 100, 200])
def test_tables_fit_the_width_and_are_plain_without_a_terminal(command: str, columns: int, server: Server) -> None:
    result = run(command, "fish", COLUMNS=str(columns))
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert "\x1b" not in result.stdout
    assert "[bold]not" in run(command, "fish", COLUMNS="200").stdout


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_filter_is_sent_and_must_be_a_json_object(command: str, server: Server) -> None:
    assert run(command, "fish", "--filter", '{"year": {"$gte": 2020}}').exit_code == 0
    assert server.bodies[0]["filter"] == {"year": {"$gte": 2020}}
    for wrong in ("year>2020", "[1]", '"x"'):
        result = run(command, "fish", "--filter", wrong)
        assert result.exit_code == 2
        assert "--filter" in result.stderr
    assert len(server.bodies) == 1


def test_a_search_by_a_vector_or_for_passages_like_one_needs_no_question(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "vector.npy", np.array([0.5, 1.5], np.float32))
    np.save(tmp_path / "row.npy", np.array([[0.5, 1.5]]))
    (tmp_path / "vector.json").write_text("[0.5, 1.5]")
    for name in ("vector.npy", "row.npy", "vector.json"):
        assert run("search", "--vector", str(tmp_path / name)).exit_code == 0
    assert run("search", "fish", "eat", "--id", "p1").exit_code == 0
    assert server.bodies == [{"vector": [0.5, 1.5]}] * 3 + [{"query": "fish eat", "id": "p1"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "cannot be read"),
        ("a.json", b"{", "holds no vector"),
        ("a.json", b"[[1], [2]]", "should hold one vector"),
        ("a.json", b"[]", "should hold one vector"),
        ("a.json", b'{"vector": [1]}', "should hold one vector"),
        ("a.npy", b"no array", "holds no vector"),
        ("b.json", b"\xff\xfe", "holds no vector"),
    ],
)
def test_a_file_without_a_vector_is_named(
    name: str, content: bytes | None, message: str, server: Server, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused = run("search", "--vector", str(tmp_path / name))
    assert refused.exit_code == 2
    assert message in " ".join(refused.stderr.split())
    assert not server.bodies


def test_a_search_for_nothing_is_refused(server: Server) -> None:
    refused = run("search")
    assert refused.exit_code == 2
    assert "QUERY is missing" in refused.stderr
    assert not server.bodies


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (["--recall", "0.99"], {"recall": 0.99}),
        (["--instruction", "Find refutations"], {"instruction": "Find refutations"}),
        (["--correct-spelling"], {"correct_spelling": True}),
        (["--no-correct-spelling"], {"correct_spelling": False}),
    ],
)
def test_an_option_is_sent_as_it_is_given(server: Server, options: list[str], sent: dict[str, Any]) -> None:
    assert run("search", "fish", *options).exit_code == 0
    assert server.bodies == [{"query": "fish", **sent}]


def test_counts_of_values_are_asked_for_and_shown(server: Server) -> None:
    counts = {"lang": [{"value": "e\x1b[2Jn", "count": 1200}, {"value": "de", "count": 7}], "ok": [], "n": []}
    counts["n"] = [{"value": 1.5, "count": 2}, {"value": True, "count": 1}]
    server.answer = httpx.Response(200, json={**answered({}), "facets": counts})
    shown = run("search", "fish", "--facet", "lang", "--facet", "ok", COLUMNS="200").stdout.splitlines()
    assert server.bodies == [{"query": "fish", "facets": ["lang", "ok"]}]
    assert {"lang: e�[2Jn 1,200, de 7", "ok: no passage has it", "n: 1.5 2, true 1"} <= set(shown)


def test_the_shape_of_an_answer_is_asked_for_and_groups_are_shown(server: Server) -> None:
    body = answered({})
    for number, result in enumerate(body["results"]):
        result["group"] = None if number == 4 else f"group\x1b{number // 2}"
    server.answer = httpx.Response(200, json=body)
    result = run(
        "search", "fish", "--group-by", "lang", "--group-size", "2", "--collapse", "--min-score", "0.25",
        "--diversity", "0", COLUMNS="200",
    )  # fmt: skip
    assert server.bodies == [
        {"query": "fish", "group_by": {"field": "lang", "size": 2}, "collapse": True, "min_score": 0.25, "diversity": 0}
    ]
    rows = [line.split() for line in result.stdout.splitlines() if "doc-" in line]
    assert [row[5] for row in rows] == [f"group�{place}" for place in (0, 0, 1, 1)] + ["-"]
    alone = run("search", "fish", "--group-size", "2")
    assert (alone.exit_code, len(server.bodies)) == (2, 1)
    assert "--group-size goes with --group-by FIELD" in alone.stderr


def test_the_best_sentences_and_the_next_page_are_shown(server: Server) -> None:
    body = answered({}, reranked=False)
    body["results"][0]["highlight"] = {"text": "the best \x1b sentence", "start": 0, "end": 19}
    server.answer = httpx.Response(200, json={**body, "next": "WyJ2MSJd"})
    lines = run("search", "fish", "--highlight", "--after", "WzFd", COLUMNS="200").stdout.splitlines()
    assert server.bodies == [{"query": "fish", "highlight": True, "after": "WzFd"}]
    rows = [line for line in lines if "doc-" in line]
    assert "the best � sentence" in rows[0]
    assert "text number 2" in rows[1]
    assert "next page: --after WyJ2MSJd" in lines
    assert "number 1" in run("search", "fish", "--full", COLUMNS="200").stdout


def test_an_order_is_asked_for_by_the_name_of_a_field(server: Server) -> None:
    run("search", "fish", "--order-by", "year")
    run("search", "fish", "--order-by", "year:desc")
    assert [body["order_by"] for body in server.bodies] == [
        {"field": "year", "descending": False},
        {"field": "year", "descending": True},
    ]


def test_search_without_reranking(server: Server) -> None:
    server.answer = httpx.Response(200, json=answered({}, reranked=False, degraded="reranker: deadline"))
    result = run("search", "fish", "--no-rerank", "--mode", "lexical")
    assert server.bodies == [{"query": "fish", "rerank": False, "mode": "lexical"}]
    assert "rerank " not in result.stdout.splitlines()[1]
    assert result.stdout.splitlines()[-1] == "degraded: reranker: deadline"


@pytest.mark.parametrize("command", ["search", "compare"])
def test_what_was_cut_of_the_query_is_told(command: str, server: Server) -> None:
    assert "warning" not in run(command, "fish").stdout
    server.answer = httpx.Response(200, json={**answered({}), "warnings": ["the query has 700 tokens\x1b[2J"]})
    shown = run(command, "fish", COLUMNS="200").stdout
    assert "warning: the query has 700 tokens�[2J" in shown.splitlines()


def test_search_can_have_the_shards_rerank(server: Server) -> None:
    assert run("search", "fish", "--late").exit_code == 0
    assert server.bodies == [{"query": "fish", "rerank": "late"}]
    result = run("search", "fish", "--late", "--no-rerank")
    assert result.exit_code == 2
    assert "leave --rerank and --no-rerank out" in result.stderr


def test_search_json_is_the_servers_answer(server: Server) -> None:
    result = run("search", "fish", "--json")
    assert json.loads(result.stdout) == answered({})
    assert result.stdout.count("\n") == 1


def test_compare_follows_passages_from_one_side_to_the_other(server: Server) -> None:
    result = run("compare", "fish", "--top-n", "2", COLUMNS="140")
    assert server.bodies == [{"query": "fish", "top_k": 25, "top_n": 25, "rerank": True}]
    rows = [line.split() for line in result.stdout.splitlines() if "text number" in line]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[0][1:4] == ["0.8000", "Title", "1"]
    joined = " ".join(rows[0])
    assert "▼ 5" in joined
    assert "▲ 5 1.0000 Title 5" in joined
    assert "2 of 2 moved; the biggest rise is by 4" in result.stdout


def test_compare_json_has_every_candidate(server: Server) -> None:
    result = run("compare", "fish", "--top-n", "2", "--json")
    assert len(json.loads(result.stdout)["results"]) == 5


@pytest.mark.parametrize("rows", ["0", "-1"])
def test_compare_shows_at_least_one_row(rows: str, server: Server) -> None:
    result = run("compare", "fish", "--top-n", rows)
    assert result.exit_code == 2
    assert result.stderr == f"error: --top-n: should be at least 1 (got {rows})\n"
    assert server.bodies == []


def test_compare_says_when_nothing_was_reranked(server: Server) -> None:
    server.answer = httpx.Response(200, json=answered({}, reranked=False))
    assert "not reranked" in run("compare", "fish").stdout


def test_the_score_that_orders_is_shown_and_beside_it_what_it_was_blended_of(server: Server) -> None:
    results = answered({})["results"]
    scores = [(4.5, 3.5), (4.25, 4.0), (3.0, 1.0)]
    for result, (score, rerank_score) in zip(results, scores, strict=False):
        result.update(score=score, rerank_score=rerank_score)
    server.answer = httpx.Response(200, json={**answered({}), "results": results[:3]})
    shown = run("search", "fish", COLUMNS="120").stdout
    assert shown.splitlines()[1].split() == ["#", "score", "rerank", "was", "stage", "one", "id", "passage"]
    rows = [line.split() for line in shown.splitlines() if "doc-" in line]
    assert [row[:7] for row in rows] == [
        ["1", "4.5000", "3.5000", "▲", "5", "0.4000", "doc-5"],
        ["2", "4.2500", "4.0000", "▲", "4", "0.5000", "doc-4"],
        ["3", "3.0000", "1.0000", "=", "3", "0.6000", "doc-3"],
    ]
    server.answer = httpx.Response(200, json=answered({}, reranked=False))
    shown = run("search", "fish", COLUMNS="120").stdout
    assert shown.splitlines()[1].split() == ["#", "score", "id", "passage"]
    assert next(line.split()[:3] for line in shown.splitlines() if "doc-" in line) == ["1", "0.8000", "doc-1"]


@pytest.mark.parametrize("columns", [80, 100, 160])
@pytest.mark.parametrize("reranked", [False, True])
def test_ids_are_shown_whole(columns: int, reranked: bool, server: Server) -> None:
    ids = ["a/rather/long/path/to/document-number-1.md#12", "x" * 150, "short"]
    results = [{**result, "id": id_} for result, id_ in zip(answered({}, reranked)["results"], ids, strict=False)]
    server.answer = httpx.Response(200, json={**answered({}, reranked), "results": results})
    lines = run("search", "fish", COLUMNS=str(columns)).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    table = lines[3 : next(number for number, line in enumerate(lines) if line.startswith("version"))]
    start = lines[1].index("id")
    end = lines[1].index("passage")
    shown = "".join(line[start:end].strip() for line in table)
    assert shown == "".join(ids)


def test_whole_texts_are_shown_if_asked_for(server: Server) -> None:
    text = "first line\n\n" + "word " * 400 + "\x1b[31m the end"
    results = [{**result, "text": text} for result in answered({})["results"][:2]]
    server.answer = httpx.Response(200, json={**answered({}), "results": results})
    assert "the end" not in run("search", "fish", COLUMNS="100").stdout
    shown = run("search", "fish", "--full", COLUMNS="100").stdout
    assert max(map(len, shown.splitlines())) <= 100
    assert "\x1b" not in shown
    assert shown.count("the end") == 2
    assert shown.count("word") == 800


def test_of_a_passage_without_a_text_the_title_is_shown_and_else_the_id(server: Server) -> None:
    first, second = answered({})["results"][:2]
    results = [{**first, "title": "A title alone", "text": ""}, {**second, "text": ""}]
    server.answer = httpx.Response(200, json={**answered({}), "results": results})
    for line, words in zip(
        run("search", "fish", COLUMNS="100").stdout.splitlines()[3:5], ("doc-5", "doc-4"), strict=True
    ):
        assert line.count(words) == (1 if "A title alone" in line else 2)


def test_that_nothing_was_found_is_said_and_why(server: Server) -> None:
    why = "no passage holds a word of the query; those that count are, as they are indexed: coral"
    server.answer = httpx.Response(200, json={**answered({}), "results": [], "warnings": [why]})
    lines = run("search", "the corals", "--mode", "lexical", COLUMNS="200").stdout.splitlines()
    assert lines[0] == "no results"
    assert f"warning: {why}" in lines


@pytest.mark.parametrize("command", ["search", "compare"])
def test_no_results(command: str, server: Server) -> None:
    server.answer = httpx.Response(200, json={**answered({}), "results": []})
    assert run(command, "fish").exit_code == 0


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (httpx.ConnectError("Connection refused"), 2, "shoal serve --index ROOT"),
        (httpx.ReadError("reset"), 1, "broke"),
        (
            httpx.Response(400, json={"error": {"code": "INVALID_ARGUMENT", "message": "top_k is too large"}}),
            2,
            "top_k",
        ),
        (httpx.Response(429, json={"error": {"code": "OVERLOADED", "message": "full"}}), 1, "full"),
        (httpx.Response(500, text="oops"), 1, "answered 500"),
    ],
)
def test_failures_of_a_search(answer: Any, code: int, message: str, server: Server) -> None:
    server.answer = answer
    result = run("search", "fish", "--json")
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert message in json.loads(result.stdout)["error"]["message"]


def test_a_query_that_is_not_utf8(server: Server) -> None:
    result = run("search", "\udcff")
    assert result.exit_code == 2
    assert result.stderr == "error: QUERY is not valid UTF-8\n"


def test_an_index_is_searched_without_a_server(tmp_path: Path, server: Server) -> None:
    root = tmp_path / "index"
    publish(root, "v1", passages(40))
    result = run("search", "the black otter n8", "--index", str(root), "--json", "--top-n", "3", SHOAL_URL="http://x:1")
    answer = json.loads(result.stdout)
    assert (answer["index_version"], answer["reranker"], answer["degraded"]) == ("v1", "late_interaction", None)
    assert [answer["results"][0]["text"], len(answer["results"])] == ["the black otter number n8", 3]
    shown = run("search", "green", "snail", "--index", str(root), "--no-rerank", "--filter", '{"number": {"$lt": 9}}')
    assert "version v1, dense, 2 of 2 shards answered" in shown.stdout
    compared = json.loads(run("compare", "green snail", "--index", str(root), "--json").stdout)
    assert (compared["reranked"], len(compared["results"])) == (True, 25)
    assert server.bodies == []


@pytest.mark.parametrize("command", ["search", "compare"])
def test_an_index_that_cannot_be_searched_is_named(command: str, tmp_path: Path, server: Server) -> None:
    for arguments, words in (
        (["--index", str(tmp_path / "nothing")], "nothing"),
        (["--index", str(tmp_path), "--url", "http://there:1"], "either --index ROOT or --url URL"),
    ):
        result = run(command, "fish", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert words in result.stderr
    assert server.bodies == []
