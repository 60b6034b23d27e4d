"""What `cluster/gpu_check.sh` runs: each path that Shoal has on a GPU, compared with a CPU, as a row of a table.

Each row is a process of its own: FAISS ends its process where CUDA fails, and the memory of one row is not another's.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_GPU = 3
"""Exit code where there is no GPU."""
BUDGET_S = 440
"""Seconds for all rows together: the rest of the eight minutes is for stopping the one that took too long."""
STOP_S = 10.0
"""Seconds that a row that took too long has to stop what it has started."""
SAME = 0.99
"""Cosine, or share of equal results, from which on a GPU is said to compute what a CPU does."""
RECALL = 0.9
"""Recall@10 that an approximate index has to reach."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much data a row takes, and where it computes.

    device: `cuda`, or `cpu` for a rehearsal.
    """

    device: str
    vectors: int
    texts: int
    passages: int


FULL = Scale("cuda", 200_000, 4096, 5000)
"""What a GPU is tried with."""
REHEARSAL = Scale("cpu", 3000, 32, 60)
"""What the script itself is tried with, where there is no GPU."""

Measured = dict[str, Any]
"""What a row has found, by names for people. A row raises AssertionError for what is wrong."""


def encoder(scale: Scale, folder: Path) -> Measured:
    """Encode passages in bfloat16, beside float32 on the CPU."""
    from shoal.encoders import load_encoder
    from shoal.settings import EncoderSettings

    texts = _texts(scale.texts)
    loaded = load_encoder(EncoderSettings(backend="torch", device=scale.device, dtype="bfloat16"))
    loaded.encode_passages(texts[:8])
    began = time.perf_counter()
    vectors = loaded.encode_passages(texts)
    seconds = time.perf_counter() - began
    exact = load_encoder(EncoderSettings(backend="torch", device="cpu", dtype="float32")).encode_passages(texts[:32])
    cosine = float((vectors[:32] * exact).sum(axis=1).min())
    assert cosine >= SAME, f"cosine with the CPU is {cosine:.4f}"
    return {"least cosine with float32 on the CPU": round(cosine, 4), "passages/s": round(len(texts) / seconds)}


def reranker(scale: Scale, folder: Path) -> Measured:
    """Score pairs with a cross-encoder, beside the same one on the CPU; its weights are random."""
    import numpy as np

    from shoal.rerankers import load_reranker
    from shoal.settings import RerankerSettings
    from shoal.testing.models import save_cross_encoder

    model = str(save_cross_encoder(folder / "model"))
    texts = _texts(scale.texts // 4)
    on = load_reranker(RerankerSettings(reranker=model, backend="torch", device=scale.device))
    on.score("warm up", texts[:8])
    began = time.perf_counter()
    scores = on.score("how do corals survive bleaching", texts)
    seconds = time.perf_counter() - began
    plain = load_reranker(RerankerSettings(reranker=model, backend="torch", device="cpu", dtype="float32"))
    exact = plain.score("how do corals survive bleaching", texts[:32])
    off = float(np.abs(scores[:32] - exact).max())
    assert off <= 0.05, f"a score differs by {off:.3f} from that of the CPU"
    return {"largest difference from the CPU": round(off, 4), "pairs/s": round(len(texts) / seconds)}


def build_flat(scale: Scale, folder: Path) -> Measured:
    """Fill a plain index: by the factory, as `flat` itself is written without FAISS."""
    return _built("Flat", scale, folder, 1.0)


def build_ivf(scale: Scale, folder: Path) -> Measured:
    """Train and fill lists."""
    return _built("ivf", scale, folder, RECALL)


def build_ivf_sq8(scale: Scale, folder: Path) -> Measured:
    """Train and fill lists of codes, which the CPU compares with exact vectors."""
    return _built("ivf_sq8", scale, folder, RECALL)


def cagra(scale: Scale, folder: Path) -> Measured:
    """Link a graph, and search it on the CPU with and without a filter."""
    import faiss
    import numpy as np

    from shoal.indexes import check_gpus, index_kind
    from shoal.settings import IndexSettings

    if scale.device == "cuda":
        check_gpus("cagra", 1)
    measured = _built("cagra", scale, folder, RECALL, "efSearch=128")
    vectors, queries = _vectors(scale.vectors)
    index = index_kind("cagra").open(
        folder / "cagra", IndexSettings(index_kind="cagra", index_search="efSearch=128"), 1
    )
    some = np.arange(0, len(vectors), 10)
    _, rows = index.search(queries, 10, faiss.IDSelectorBatch(some), 0.1)
    recall = _recall(rows, some[_exact(vectors[some], queries)])
    assert recall >= RECALL, f"recall@10 among a tenth is {recall:.3f}"
    return measured | {"recall@10 among a tenth": round(recall, 3)}


def search_flat(scale: Scale, folder: Path) -> Measured:
    """Search all vectors on the GPU, and a filter's on the CPU."""
    return _searched("flat", scale, folder)


def search_ivf(scale: Scale, folder: Path) -> Measured:
    """Search lists on the GPU, and a filter's rows on the CPU."""
    return _searched("ivf", scale, folder)


def whole(scale: Scale, folder: Path) -> Measured:
    """Build by the command, with Ray and a GPU worker, and search the index in a process that has shards on the GPU."""
    import shoal

    lines = (json.dumps({"id": str(n), "text": text}) for n, text in enumerate(_texts(scale.passages)))
    (folder / "source.jsonl").write_text("\n".join(lines) + "\n")
    options = ["--device", scale.device, "--shards", "2", "--index-kind", "flat"]
    command = ["build", "--source", str(folder / "source.jsonl"), "--index", str(folder / "index"), *options]
    began = time.perf_counter()
    program = "from shoal.cli.main import main; main()"
    built = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
    assert not built.returncode, built.stderr.strip()[-300:]
    seconds = time.perf_counter() - began
    answers = []
    for device in dict.fromkeys((scale.device, "cpu")):
        with shoal.open(folder / "index", retriever_device=device, device=device, reranker="none") as index:
            answers.append([result.id for result in index.search("coral number 7", mode="dense").results])
    assert len(set(answers[0]) & set(answers[-1])) >= 9, f"other results than on the CPU: {answers}"
    return {"build s": round(seconds), "results": len(answers[0])}


ROWS: dict[str, Callable[[Scale, Path], Measured]] = {
    "encoder in bfloat16": encoder,
    "reranker": reranker,
    "build Flat": build_flat,
    "build ivf": build_ivf,
    "build ivf_sq8": build_ivf_sq8,
    "build cagra": cagra,
    "search flat": search_flat,
    "search ivf": search_ivf,
    "shoal build, then search": whole,
}
"""The rows of the table, in its order."""
USES_FAISS = ("build", "search")
"""How rows begin that have FAISS compute on the GPU."""


def _texts(count: int) -> list[str]:
    return [f"coral number {n} " + "survives bleaching where the water stays cool " * (1 + n % 8) for n in range(count)]


def _vectors(count: int) -> tuple[Any, Any]:
    """Vectors in clusters, float32 (n, 384), and 200 queries near some of them, all of length 1."""
    import numpy as np

    random = np.random.default_rng(0)
    centres = random.standard_normal((max(1, count // 100), 384), dtype=np.float32)
    places = random.integers(len(centres), size=count + 200)
    rows = centres[places] + 0.7 * random.standard_normal((count + 200, 384), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:count], rows[count:]


def _exact(vectors: Any, queries: Any) -> Any:
    import numpy as np

    return np.argsort(-(queries @ vectors.T), axis=1)[:, :10]


def _recall(found: Any, expected: Any) -> float:
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return sum(len(set(one) & set(other)) for one, other in pairs) / int(expected.size)


def _make(kind: str, vectors: Any, path: Path) -> float:
    """Build an index in blocks and return the seconds that it took."""
    import numpy as np

    from shoal.indexes import index_kind
    from shoal.settings import IndexSettings

    began = time.perf_counter()
    module = index_kind(kind)
    trained = module.train(vectors[:100_000], IndexSettings(index_kind=kind), 4)
    module.build(np.array_split(vectors, 4), vectors.shape[1], path, trained, 4)
    return time.perf_counter() - began


def _built(kind: str, scale: Scale, folder: Path, least: float, search: str = "") -> Measured:
    from shoal.indexes import index_kind
    from shoal.settings import IndexSettings

    vectors, queries = _vectors(scale.vectors)
    seconds = _make(kind, vectors, folder / kind)
    index = index_kind(kind).open(folder / kind, IndexSettings(index_kind=kind, index_search=search), 1)
    recall = _recall(index.search(queries, 10)[1], _exact(vectors, queries))
    assert recall >= least, f"recall@10 is {recall:.3f}"
    return {"vectors": scale.vectors, "build s": round(seconds, 2), "recall@10 on the CPU": round(recall, 3)}


def _searched(kind: str, scale: Scale, folder: Path) -> Measured:
    import faiss
    import numpy as np

    from shoal.indexes import index_kind, search_on_gpu
    from shoal.settings import IndexSettings

    vectors, queries = _vectors(scale.vectors)
    _make(kind, vectors, folder / kind)
    on_cpu = index_kind(kind).open(folder / kind, IndexSettings(index_kind=kind), 1)
    on_gpu = search_on_gpu(on_cpu) if scale.device == "cuda" else on_cpu
    assert on_gpu is not on_cpu or scale.device == "cpu", "the index was not copied to the GPU"
    seconds = {}
    for name, index in (("CPU", on_cpu), ("GPU", on_gpu)):
        index.search(queries[:1], 10)
        began = time.perf_counter()
        for query in queries:
            index.search(query[None], 10)
        seconds[name] = time.perf_counter() - began
    same = _recall(on_gpu.search(queries, 10)[1], on_cpu.search(queries, 10)[1])
    assert same >= SAME, f"{same:.3f} of the results are those of the CPU"
    some = faiss.IDSelectorBatch(np.arange(0, len(vectors), 10))
    filtered = on_gpu.search(queries, 10, some, 0.1)[1]
    assert not (filtered[filtered >= 0] % 10).any(), "a filter was not kept"
    times = {f"{name} ms/query": round(1000 * taken / len(queries), 2) for name, taken in seconds.items()}
    return {"share of equal results": round(same, 4), **times}


def lack(row: str) -> str:
    """What this machine lacks for a row: nothing, a FAISS that computes on GPUs, or one with cuVS."""
    if not row.startswith(USES_FAISS):
        return ""
    from shoal.indexes import _gpu

    if not _gpu.has_gpu():
        return "FAISS sees no GPU: pip install 'shoal[gpu]'"
    return "FAISS has no cuVS: pip install 'shoal[cuvs]'" if row == "build cagra" and not _gpu.has_cuvs() else ""


def try_row(row: str, scale: Scale) -> Measured:
    """Run a row in this process and add the memory of the GPU that is taken at its end, in MiB."""
    with tempfile.TemporaryDirectory(prefix="shoal-gpu-check-") as folder:
        measured = ROWS[row](scale, Path(folder))
    if scale.device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        measured["GPU MiB"] = (total - free) >> 20
    return measured


def child(row: str, scale: Scale) -> None:
    """Run a row and print how it ended, as a line of JSON behind whatever libraries print."""
    missing = lack(row) if scale.device == "cuda" else ""
    try:
        ending = {"lacks": missing} if missing else {"measured": try_row(row, scale)}
    except Exception as error:  # whatever a row meets is what it has to say
        ending = {"failed": f"{type(error).__name__}: {error}"}
    print(f"\n{json.dumps(ending)}", flush=True)


def run_row(command: list[str], within_s: float) -> tuple[str, str]:
    """Run a row as a process of its own.

    Returns:
        `good`, `lacks` or `failed`, and what there is to say about it.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=max(within_s, 1))
    except subprocess.TimeoutExpired:
        _stop(process)
        return "failed", f"took longer than the {within_s:.0f} s that were left"
    try:
        ((ending, said),) = json.loads(output.strip().splitlines()[-1]).items()
    except (IndexError, ValueError):
        return "failed", f"ended with {process.returncode}: {' '.join(errors.split())[-200:]}"
    if ending == "measured":
        return "good", ", ".join(f"{name} {value}" for name, value in said.items())
    return ending, " ".join(str(said).split())[:300]


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop a row and what it has started, such as a build, which stops its Ray itself."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=STOP_S)


def has_gpu() -> bool:
    """Whether there is a GPU here, as models look for one."""
    from shoal.inference.placement import has_gpu as torch_sees_gpu

    return torch_sees_gpu()


def check(rows: Iterable[str], arguments: list[str], budget_s: float = BUDGET_S) -> int:
    """Run rows one after the other, print a line for each as it ends, and return the exit code."""
    began, endings = time.perf_counter(), []
    for row in rows:
        left = budget_s - (time.perf_counter() - began)
        command = [sys.executable, "-m", "cluster.gpu_check", *arguments, "--row", row]
        ending, said = run_row(command, left)
        endings.append(ending)
        _line(row, ending, said)
    return 0 if all(ending == "good" for ending in endings) else 1


def _line(row: str, ending: str, said: str) -> None:
    print(f"| {row:<24} | {ending:<6} | {said} |", flush=True)


def main() -> None:
    """Print the table, or run one row of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run every row over little data on the CPU")
    parser.add_argument("--row", choices=ROWS, help="run one row alone, and print its ending as JSON")
    options = parser.parse_args()
    if options.row:
        child(options.row, REHEARSAL if options.rehearse else FULL)
        return
    print(f"| {'path':<24} | result | what was found |\n| --- | --- | --- |", flush=True)
    if not options.rehearse and not has_gpu():
        for row in ROWS:
            _line(row, "none", "no GPU here")
        sys.exit(NO_GPU)
    sys.exit(check(ROWS, ["--rehearse"] if options.rehearse else []))


if __name__ == "__main__":
    main()
