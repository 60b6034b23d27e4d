"""An index in this process: what opens, what is noticed, what is let go. Its calls: tests/contract/test_engine.py."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal.engine.index import Index
from shoal.engine.loop import LoopThread
from shoal.errors import CorruptIndex, EncoderMismatch, InvalidArgument, NotFound, Unavailable
from shoal.evaluation.evaluate import Outcome, evaluate
from shoal.index_root import layout
from shoal.rerankers.overlap import OverlapReranker
from shoal.settings import EvaluateSettings
from tests.support.indexes import passages, publish

COUNT = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "index", "v1", passages(COUNT, marker="of-v1"))
    return tmp_path / "index"


def break_version(root: Path, version: str) -> None:
    next((root / "versions" / version).rglob("passages.arrow")).write_bytes(b"broken")


def our_threads() -> set[str]:
    names = ("shoal index", "encoder", "reranker", "shards", "asyncio")
    return {f"{thread.name} {thread.ident}" for thread in threading.enumerate() if thread.name.startswith(names)}


def mapped(root: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(root) in line]


def test_a_client_needs_nothing_of_the_engine(root: Path) -> None:
    heavy = "{'numpy', 'pyarrow', 'faiss', 'torch', 'ray', 'fastapi', 'httpx'}"
    script = f"import sys, shoal; assert not {heavy} & sys.modules.keys()\n"
    script += f"with shoal.open({str(root)!r}, reranker='overlap') as index: index.search('fish')\n"
    unneeded = "{'torch', 'ray', 'fastapi', 'httpx', 'transformers', 'pandas', 'scipy', 'pyarrow.fs', 'shoal.sources'}"
    script += f"assert not {unneeded} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_process_that_ends_without_closing_says_nothing(root: Path) -> None:
    script = f"""
import threading, time, shoal
from shoal.search import tail
tail.POLL_LOCAL_S = tail.IDLE_S = 0.01
index = shoal.open({str(root)!r}, reranker="none")
index.search("fish")
threading.Thread(target=time.sleep, args=(0.3,)).start()  # outlives the main thread, and so do looks at the log
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_closing_ends_threads_and_lets_go_of_files(root: Path) -> None:
    before = our_threads()  # those of tests before may end meanwhile
    index = shoal.open(root, reranker="overlap")
    index.search(["red fish", "green snail"])
    assert mapped(root)
    assert our_threads() - before
    index.close()
    index.close()
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith(("encoder", "reranker", "shards")) and f"{thread.name} {thread.ident}" not in before:
            thread.join()
    assert not our_threads() - before
    assert not mapped(root)
    with pytest.raises(Unavailable, match="open it again"):
        index.search("fish")
    assert not index.ready()


def test_an_index_that_nobody_needs_is_closed(root: Path) -> None:
    before = our_threads()
    index = shoal.open(root, reranker="overlap")
    opened = index._opened
    del index
    gc.collect()
    assert opened._closed
    assert {name for name in our_threads() if name.startswith("shoal index")} <= before


def test_who_waits_for_an_index_that_is_closed_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    score_pairs = OverlapReranker.score_pairs

    def wait(self: OverlapReranker, pairs: object) -> object:
        begun.set()
        go_on.wait()
        return score_pairs(self, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlapReranker, "score_pairs", wait)
    index = shoal.open(root, reranker="overlap")
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            index.search("fish")
        except BaseException as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    begun.wait()
    index.close()
    asking.join()
    go_on.set()
    assert [type(error) for error in errors] == [Unavailable]


def test_an_answer_comes_by_its_deadline(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    score_pairs = OverlapReranker.score_pairs

    def wait(self: OverlapReranker, pairs: object) -> object:
        go_on.wait(60)
        return score_pairs(self, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlapReranker, "score_pairs", wait)
    with shoal.open(root, reranker="overlap") as index:
        answer = index.search("red fish", timeout_ms=500)
        go_on.set()
    assert not answer.reranked
    assert answer.degraded is not None


async def test_cancelling_who_awaits_cancels_the_search(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(self: OverlapReranker, pairs: object) -> object:
        begun.set()
        go_on.wait()
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr(OverlapReranker, "score_pairs", wait)
    async with shoal.AsyncIndex(root, reranker="overlap") as index:
        task = asyncio.create_task(index.search("fish"))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert (await index.search("fish", rerank=False)).index_version == "v1"


async def test_an_index_for_asyncio_is_opened_first(root: Path) -> None:
    index = shoal.AsyncIndex(root, reranker="none")
    assert not await index.ready()
    with pytest.raises(Unavailable, match="async with"):
        await index.search("fish")
    await index.close()
    assert await asyncio.gather(index.open(), index.open()) == [index, index]
    assert len({name for name in our_threads() if name.startswith("shoal index")}) == 1
    assert (await index.search("fish")).index_version == "v1"
    await index.close()
    with pytest.raises(Unavailable, match="open it again"):
        await index.describe()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda root: root / "nothing", NotFound, "nothing"),
        (lambda root: break_version(root, "v1") or root, CorruptIndex, "passages.arrow"),
        (lambda root: (root / layout.CURRENT).unlink() or root, NotFound, "shoal build"),
    ],
)
def test_what_cannot_be_opened(root: Path, change: Callable[[Path], Path], error: type[Exception], words: str) -> None:
    place = change(root)
    before = our_threads()
    with pytest.raises(error, match=words):
        shoal.open(place, reranker="none")
    assert {name for name in our_threads() if name.startswith("shoal index")} <= before


@pytest.mark.parametrize(
    ("settings", "param"),
    [({"rerankr": "none"}, "rerankr"), ({"top_k": 0}, "top_k"), ({"max_batch": "many"}, "max_batch")],
)
def test_settings_that_are_wrong_are_named(root: Path, settings: dict[str, object], param: str) -> None:
    for make in (Index, shoal.AsyncIndex):
        with pytest.raises(InvalidArgument) as raised:
            make(root, **settings)
        assert raised.value.param == param


@pytest.mark.parametrize("call", ["shoal.open('index')", "shoal.AsyncIndex('index')", "from shoal import Index"])
def test_what_the_client_alone_lacks_is_named(call: str) -> None:
    code = f"import sys; sys.modules['numpy'] = None\nimport shoal\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("shoal.errors.InvalidArgument: this needs more than the client (numpy): pip install")


def test_another_encoder_than_the_indexes_is_refused(root: Path) -> None:
    with pytest.raises(EncoderMismatch):
        shoal.open(root, encoder="hashing:32", reranker="none")


def test_a_current_version_that_is_broken_gives_way_to_the_one_before(root: Path) -> None:
    publish(root, "v2", passages(COUNT, marker="of-v2"))
    break_version(root, "v2")
    with shoal.open(root, reranker="none", watch_s=3600) as index:
        assert index.search("fish").index_version == "v1"
        description = index.describe()
        assert description.version == "v1"
        assert "passages.arrow" in str(getattr(description, "problem", None))


def test_a_version_that_cannot_be_served_is_a_problem_until_it_can(root: Path) -> None:
    with shoal.open(root, reranker="none", watch_s=3600) as index:
        publish(root, "v2", passages(COUNT, marker="of-v2"))
        whole = {path: path.read_bytes() for path in (root / "versions" / "v2").rglob("passages.arrow")}
        break_version(root, "v2")
        problem = getattr(index.refresh(), "problem", None)
        assert "v2 cannot be served" in str(problem)
        assert index.search("fish").index_version == "v1"
        for path, content in whole.items():
            path.write_bytes(content)
        description = index.refresh()
        assert (description.version, description.previous) == ("v2", "v1")
        assert getattr(description, "problem", "") is None
        publish(root, "v3", passages(COUNT), encoder="hashing:32")
        assert "open it again" in str(getattr(index.refresh(), "problem", None))
        with pytest.raises(EncoderMismatch):
            index.activate("v3")
        (root / layout.CURRENT).write_text("broken")
        assert "CURRENT cannot be served" in str(getattr(index.refresh(), "problem", None))
        assert index.search("fish").index_version == "v2"


def test_a_version_with_another_number_of_shards_is_served(root: Path) -> None:
    with shoal.open(root, reranker="none", watch_s=3600) as index:
        publish(root, "v2", passages(COUNT, marker="of-v2"), shards=3)
        assert index.refresh().shards == 3
        answer = index.search("the black otter n8")
        assert (answer.coverage.answered, answer.results[0].text) == (3, "the black otter number n8 of-v2")


def test_searches_under_way_end_with_the_version_that_they_began_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    score_pairs = OverlapReranker.score_pairs

    def wait(self: OverlapReranker, pairs: object) -> object:
        begun.set()
        go_on.wait()
        return score_pairs(self, pairs)  # type: ignore[arg-type]

    publish(root, "v2", passages(COUNT, marker="of-v2"), activate=False)
    with shoal.open(root, reranker="overlap") as index:
        monkeypatch.setattr(OverlapReranker, "score_pairs", wait)
        versions_seen: list[str] = []
        # Vectors are fetched last, from the version that has been replaced by then.
        asking = threading.Thread(
            target=lambda: versions_seen.append(index.search("fish", include=["vector"]).index_version)
        )
        asking.start()
        begun.wait()
        assert index.activate("v2").version == "v2"
        go_on.set()
        asking.join()
        assert versions_seen == ["v1"]
        assert index.search("fish").index_version == "v2"


def test_late_interaction_reads_with_the_encoder_that_is_there(root: Path) -> None:
    with shoal.open(root) as index:
        answer = index.search("the black otter n8", top_n=3)
        assert (answer.reranked, answer.reranker) == (True, "late_interaction")
        assert answer.results[0].text == "the black otter number n8 of-v1"
        models = index._opened._calls.engine._models
        assert models is not None
        assert len(models._threads) == 1


def test_a_loop_ends_what_it_runs_and_takes_nothing_more() -> None:
    loop = LoopThread("test loop")
    assert loop.run(asyncio.sleep(0, "done")) == "done"
    future = loop.submit(asyncio.sleep(3600))
    cleaned: list[str] = []
    loop.close(lambda: cleaned.append(threading.current_thread().name))
    assert future.cancelled()
    assert cleaned == ["test loop"]
    with pytest.raises(RuntimeError):
        loop.run(asyncio.sleep(0))


def test_a_deadline_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def wait(self: OverlapReranker, pairs: object) -> object:
        go_on.wait()
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr(OverlapReranker, "score_pairs", wait)
    with shoal.open(root, reranker="overlap") as index:
        answer = index.search("the black otter n8", timeout_ms=500)
        assert not answer.reranked
        assert "reranker" in str(answer.degraded)
        go_on.set()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text(
        "".join(f'{{"_id": "q{number}", "text": "number n{number}"}}\n' for number in range(5))
    )
    judged = "".join(f"q{number}\tp{number}\t1\n" for number in range(5))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


async def test_an_open_index_is_evaluated_like_one_that_is_opened_for_it(root: Path, dataset: Path) -> None:
    settings = EvaluateSettings(dataset=str(dataset), index=str(root), reranker="overlap")
    expected = await asyncio.to_thread(evaluate, settings)
    assert [row.name for row in expected.rows] == ["dense", "dense+rerank"]

    def values(outcome: Outcome) -> dict[str, object]:
        return {row.name: row.values for row in outcome.rows}

    with shoal.open(root, reranker="overlap") as index:
        assert values(index.evaluate(dataset)) == values(expected)
        assert [row.name for row in index.evaluate(dataset, rerank="no", queries=2).rows] == ["dense"]
        for wrong in ({"reranker": "none"}, {"top_k": 0}, {"modes": ["lexical"]}):
            with pytest.raises(InvalidArgument) as raised:
                index.evaluate(dataset, **wrong)
            assert raised.value.param == next(iter(wrong))
    async with shoal.AsyncIndex(root, reranker="overlap") as asked:
        assert values(await asked.evaluate(dataset)) == values(expected)
