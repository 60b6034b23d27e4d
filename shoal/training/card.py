"""What is written beside trained weights: a model card, and the learning curve as JSON and as a plot."""

import json
from pathlib import Path
from typing import Any

from shoal.inference import models
from shoal.settings import TrainSettings
from shoal.training.checkpoint import Position
from shoal.training.mining import Examples

CURVE, PLOT, CARD = "learning_curve.json", "learning_curve.png", "README.md"


def summarise(settings: TrainSettings, examples: Examples, position: Position, data_digest: str) -> dict[str, Any]:
    """Return what is known of a finished training: numbers, data, time; all of it JSON."""
    return {
        "kind": settings.kind,
        "base": settings.base or settings.encoder,
        "encoder": settings.encoder,
        "data": settings.data,
        "data_sha256": data_digest,
        "licence": settings.licence,
        "seed": settings.seed,
        "train_queries": len(examples.train),
        "dev_queries": len(examples.dev),
        "steps": position.step,
        "best_step": position.best_step,
        "dev_ndcg_at_10": position.best,
        "dev_ndcg_at_10_untrained": position.curve[0]["ndcg"],
        "hours": round(position.seconds / 3600, 4),
        "cpu_hours_of_one_worker": round(position.cpu_seconds / 3600, 4),
        "settings": settings.model_dump(exclude={"data", "output"}),
    }


def write(folder: Path, result: dict[str, Any], curve: list[dict[str, Any]]) -> None:
    """Write card, curve and plot into a folder, and the same for programs."""
    (folder / models.TRAINED).write_text(json.dumps(result, indent=1) + "\n")
    (folder / CURVE).write_text(json.dumps(curve, indent=1) + "\n")
    plot(folder / PLOT, curve, result["best_step"])
    (folder / CARD).write_text(_card(result))


def plot(path: Path, curve: list[dict[str, Any]], best_step: int | None) -> None:
    """Draw loss and nDCG@10 over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    learned = [row for row in curve if row["loss"] is not None]
    left.plot([row["step"] for row in learned], [row["loss"] for row in learned], "o-", color="tab:gray")
    left.set(xlabel="step", ylabel="training loss (gray)")
    measured = [row for row in curve if row["ndcg"] is not None]
    if measured:
        right = left.twinx()
        right.plot([row["step"] for row in measured], [row["ndcg"] for row in measured], "s-", color="tab:blue")
        right.axhline(measured[0]["ndcg"], color="tab:blue", linestyle=":", linewidth=1)
        right.set_ylabel("nDCG@10 of held-out queries (blue; dotted: untrained)")
        if best_step is not None:
            right.axvline(best_step, color="tab:green", linestyle="--", linewidth=1)
    figure.savefig(path, dpi=120)


def _card(result: dict[str, Any]) -> str:
    settings = result["settings"]
    trained = f"LoRA adapters of rank {settings['lora_rank']}, merged" if settings["lora_rank"] else "all weights"
    dev = "no queries were held out"
    if result["dev_ndcg_at_10"] is not None:
        dev = (
            f"{result['dev_ndcg_at_10']:.4f} after step {result['best_step']} (kept) against "
            f"{result['dev_ndcg_at_10_untrained']:.4f} untrained, on {result['dev_queries']} held-out queries, over "
            f"the first {settings['dev_top_k']} passages of {result['encoder']}"
        )
    options = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
    return f"""# A reranker trained with Shoal

| | |
| --- | --- |
| kind | {result["kind"]} |
| started from | {result["base"]} |
| trained | {trained} |
| data | `{result["data"]}`, SHA-256 {result["data_sha256"]} |
| licence of the data | {result["licence"] or "not given"} |
| queries | {result["train_queries"]:,} to learn from, {result["dev_queries"]:,} held out |
| nDCG@10 | {dev} |
| steps | {result["steps"]:,} of {settings["batch_queries"]} queries |
| time | {result["hours"]:.2f} hours; {result["cpu_hours_of_one_worker"]:.2f} hours of CPU time in one worker |
| seed | {result["seed"]} |

Use: `shoal serve --index INDEX --reranker FOLDER`. Mind that the best of several evaluations was kept, so the number
above is a little too good; measure on queries that took no part.

![loss and nDCG@10]({PLOT})

| setting | value |
| --- | --- |
{options}"""
