"""The example of two-stage retrieval, with Pinecone's SDK as it is, against a server; its notebook says the same.

`SHOAL_WRITE_NOTEBOOK=1 python -m pytest tests/contract/test_examples.py` writes the notebook from the script, with what
its cells print where the server has the models that come with Shoal.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pinecone.exceptions import PineconeApiException

from shoal.indexing.empty import create_index
from shoal.serving import keys
from shoal.settings import CreateSettings
from tests.support.dialects import ENCODER, RERANKER, scores_of, vectors_of
from tests.support.environments import environment_of, installs, run_in
from tests.support.local_server import serving_locally
from tests.support.long import only_long
from tests.support.notebooks import cells_in, cells_of, notebook_of, run_cells
from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "two_stage_rag.py", EXAMPLES / "two_stage_rag.ipynb"
KEY = keys.make()
REAL = ("all-MiniLM-L6-v2", "late_interaction")
"""The models that come with Shoal."""
WRITE = "SHOAL_WRITE_NOTEBOOK" in os.environ


@contextmanager
def served(folder: Path, models: tuple[str, str] = (ENCODER, RERANKER), **more: Any) -> Iterator[str]:
    """A server as the example's first cell starts it, but with a key."""
    encoder, reranker = models
    create_index(CreateSettings(index=str(folder / "rerankers"), encoder=encoder))
    (folder / "keys.txt").write_text(keys.line(KEY, "article", "write") + "\n")
    aliases = [f"multilingual-e5-large={encoder}", f"bge-reranker-v2-m3={reranker}"]
    options = {"reranker": reranker, "model_alias": aliases, "api_keys_file": str(folder / "keys.txt"), **more}
    with serving_locally(folder / "rerankers", **options) as url:
        yield url


@dataclass
class Run:
    """The cells of the notebook after they have run: their names, and what each printed."""

    names: dict[str, Any]
    outputs: dict[int, str]

    @property
    def texts(self) -> list[str]:
        return [record["text"] for record in self.names["records"]]


def run_example(url: str) -> Run:
    cells = cells_of(SCRIPT.read_text("utf-8"))
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(EXAMPLES)
        patch.setenv("PINECONE_CONTROLLER_HOST", url)
        patch.setenv("PINECONE_API_KEY", KEY)
        return Run(names, run_cells(cells, names))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with served(tmp_path_factory.mktemp("article")) as url:
        yield run_example(url)


@pytest.mark.skipif(not WRITE, reason="writes the notebook with SHOAL_WRITE_NOTEBOOK=1")
def test_the_notebook_is_written(tmp_path: Path) -> None:
    with served(tmp_path, REAL) as url:
        outputs = run_example(url).outputs
    NOTEBOOK.write_text(notebook_of(cells_of(SCRIPT.read_text("utf-8")), outputs), "utf-8")


def test_the_notebook_is_the_script() -> None:
    assert cells_in(NOTEBOOK.read_text("utf-8")) == cells_of(SCRIPT.read_text("utf-8"))


def test_stage_one_is_in_the_order_of_the_cosines(run: Run) -> None:
    question = run.names["question"]
    candidates = run.names["retrieve"](question)
    cosines = vectors_of(run.texts, "passage") @ vectors_of([question], "query")[0]
    assert len(candidates) == 25
    assert [candidate["score"] for candidate in candidates] == pytest.approx(np.sort(cosines)[::-1][:25], abs=1e-6)
    by_id = {record["id"]: record for record in run.names["records"]}
    for candidate in candidates:
        record = by_id[candidate["id"]]
        assert candidate == {
            "id": record["id"],
            "score": candidate["score"],
            "text": record["text"],
            **record["metadata"],
        }


def test_stage_two_is_in_the_order_of_the_reranker(run: Run) -> None:
    question = run.names["question"]
    candidates = run.names["retrieve"](question)
    best = run.names["rerank"](question, candidates)
    scores = scores_of(question, [candidate["text"] for candidate in candidates])
    assert [passage["relevance"] for passage in best] == pytest.approx(sorted(scores, reverse=True)[:3])
    for passage in best:
        assert passage["id"] == candidates[passage["before"] - 1]["id"]
        assert passage["relevance"] == pytest.approx(scores[passage["before"] - 1])


def test_the_table_compares_both_orders(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    question = run.names["question"]
    run.names["compare"](question)
    printed = capsys.readouterr().out
    assert printed.strip() in "".join(run.outputs.values())
    rows = [line.split() for line in printed.splitlines()[3:] if line]
    candidates = run.names["retrieve"](question)
    best = run.names["rerank"](question, candidates)
    kept = [passage["id"] for passage in best]
    dropped = [candidate["id"] for candidate in candidates[:3] if candidate["id"] not in kept]
    assert [row[4] for row in rows] == kept + dropped
    assert [row[0] for row in rows] == ["1", "2", "3"] + ["-"] * len(dropped)
    places = [candidate["id"] for candidate in candidates]
    assert [int(row[1]) for row in rows] == [places.index(id_) + 1 for id_ in kept + dropped]


def test_the_prompt_holds_the_best_passages(run: Run) -> None:
    question = run.names["question"]
    prompt = run.outputs[max(run.outputs)]
    best = run.names["rerank"](question, run.names["retrieve"](question))
    positions = [prompt.index(passage["text"]) for passage in best]
    assert positions == sorted(positions)
    assert question in prompt


def test_batches_of_96(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell that embeds and upserts, over twice as many records."""
    [cell] = [cell for cell in cells_of(SCRIPT.read_text("utf-8")) if "range(0, len(records)" in cell.source]
    sizes: list[int] = []
    embed: Callable[..., Any] = run.names["embed"]

    def counted(texts: list[str], input_type: str) -> Any:
        sizes.append(len(texts))
        return embed(texts, input_type)

    more = [{**record, "id": f"{record['id']}-again"} for record in run.names["records"]]
    records = [*run.names["records"], *more]
    run_cells([cell], {**run.names, "records": records, "embed": counted})
    assert sizes == [96, 24]
    index = run.names["index"]
    assert index.describe_index_stats().total_vector_count == 120
    index.delete(ids=[record["id"] for record in more])


@pytest.mark.parametrize(
    ("status", "failures", "waits"), [(429, 2, [1, 2]), (503, 4, [1, 2, 4, 8]), (500, 5, [1, 2, 4, 8])]
)
def test_back_off(run: Run, status: int, failures: int, waits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[int] = []
    answers = iter([status] * failures)

    def embed(**_: Any) -> Any:
        if (code := next(answers, None)) is not None:
            raise PineconeApiException("busy", code)
        return SimpleNamespace(data=[SimpleNamespace(values=[1.0])])

    monkeypatch.setitem(run.names, "pc", SimpleNamespace(inference=SimpleNamespace(embed=embed)))
    monkeypatch.setitem(run.names, "time", SimpleNamespace(sleep=slept.append))
    if failures < run.names["ATTEMPTS"]:
        assert run.names["embed"](["a"], "query") == [[1.0]]
    else:
        with pytest.raises(PineconeApiException, match="busy"):
            run.names["embed"](["a"], "query")
    assert slept == waits


def test_a_wrong_request_is_not_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.names, "ENCODER", "llama-text-embed-v2")
    monkeypatch.setitem(run.names, "time", None)
    with pytest.raises(PineconeApiException, match="not served here"):
        run.names["embed"](["a"], "query")


def test_a_server_with_a_catalog_creates_the_index(run: Run, tmp_path: Path) -> None:
    """create_index makes the index in the folder of the catalog; the default index lends its encoder to embed."""
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    create_index(CreateSettings(index=str(tmp_path / "models"), encoder=ENCODER))
    (tmp_path / "keys.txt").write_text(keys.line(KEY, "article", "admin") + "\n")
    aliases = [f"multilingual-e5-large={ENCODER}", f"bge-reranker-v2-m3={RERANKER}"]
    options = {"reranker": RERANKER, "model_alias": aliases, "api_keys_file": str(tmp_path / "keys.txt")}
    with serving_locally(tmp_path / "models", catalog=str(catalog), **options) as url:
        made = run_example(url)
        assert set(made.names["pc"].list_indexes().names()) == {"models", "rerankers"}
        stats = {name: made.names["pc"].Index(name).describe_index_stats() for name in ("models", "rerankers")}
    assert [folder.name for folder in catalog.iterdir()] == ["rerankers"]
    assert {name: counted.total_vector_count for name, counted in stats.items()} == {"models": 0, "rerankers": 60}
    assert made.outputs[max(made.outputs)] == run.outputs[max(run.outputs)]


@only_long
def test_the_models_that_come_with_shoal_find_the_answer(tmp_path: Path) -> None:
    """Each question of the example has one passage that answers it, which is first after stage two."""
    with served(tmp_path, REAL) as url:
        run = run_example(url)
        printed = "".join(run.outputs.values())
        firsts = re.findall(r"(?m)^    1 .*? (example-\d+#\d)", printed)
    assert firsts == ["example-01#1", "example-03#4", "example-02#4"]


@only_long
@installs
@pytest.mark.parametrize(
    ("requirement", "changes"),
    [
        ("pinecone==5.1.0", "A"),
        ("pinecone[grpc]==5.1.0", "AB"),
        ("pinecone==7.3.0", ""),
        ("pinecone[grpc]==7.3.0", "B"),
        ("pinecone==10.2.0", "C"),
    ],
)
def test_other_sdks_and_grpc(requirement: str, changes: str, tmp_path: Path) -> None:
    """The script with the changes that docs/from-pinecone.md names, in an environment of its own."""
    python = environment_of(requirement)
    script = tmp_path / "examples" / SCRIPT.name
    script.parent.mkdir()
    port = free_port()
    text = changed(SCRIPT.read_text("utf-8"), changes)
    script.write_text(text.replace("127.0.0.1:50051", f"127.0.0.1:{port}"), "utf-8")
    (script.parent / "papers.jsonl").write_bytes((EXAMPLES / "papers.jsonl").read_bytes())
    with served(tmp_path, grpc_port=port) as url:
        variables = {"PINECONE_CONTROLLER_HOST": url, "PINECONE_API_KEY": KEY, "PINECONE_GRPC_SCHEME": "http"}
        done = run_in(python, script, **variables)
        assert done.returncode == 0, done.stderr
        expected = run_example(url)
    assert done.stdout.endswith(expected.outputs[max(expected.outputs)])
    assert "after  before  relevance  cosine  passage" in done.stdout


def test_the_page_changes_lines_that_the_script_has() -> None:
    script = SCRIPT.read_text("utf-8")
    for change, port in (("A", False), ("B", True), ("C", True)):
        assert changed(script, change) != script
        assert ("127.0.0.1:50051" in changed(script, change)) is port


def changed(script: str, changes: str) -> str:
    """Make changes to a script that the page has under these letters."""
    page = (ROOT / "docs" / "from-pinecone.md").read_text("utf-8")
    for change in changes:
        block = page.partition(f"\n{change}: ")[2].partition("```diff\n")[2].partition("```")[0]
        for hunk in block.split("\n\n"):
            lines = hunk.splitlines()
            before = "\n".join(line[1:] for line in lines if line.startswith("-"))
            after = "\n".join(line[1:] for line in lines if line.startswith("+"))
            assert script.count(before) == 1
            script = script.replace(before, after)
    return script
