"""What is trained is what is served: scores, losses, adapters and the folder of the result, on tiny models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.train.ray_trainer import raise_worker_error, work
from shoal.encoders import load_encoder
from shoal.errors import ModelUnavailable
from shoal.rerankers import load_reranker
from shoal.settings import EncoderSettings, RerankerSettings, TrainSettings
from shoal.training import checkpoint, scorers
from shoal.training.batches import Listing
from shoal.training.checkpoint import Position
from shoal.training.lora import Adapters
from shoal.training.run import train
from shoal.training.training_run import TrainingRun, plan_training
from tests.support import tiny_models

QUERY = "the red otter"
PASSAGES = ["a red fish and an otter", "the heron", "vitamin d " * 30, "a red otter", ""]
KINDS = ["late_interaction", "cross_encoder"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "query: ", "document": "passage: "}
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"), prompts=prompts)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_cross_encoder(tmp_path_factory.mktemp("tiny"))


def settings(base: Path, **options: Any) -> TrainSettings:
    given: dict[str, Any] = {"data": "unused", "output": "unused", "dtype": "float32", "device": "cpu"}
    return TrainSettings.model_validate(given | {"encoder": str(base), "max_length": 64} | options)


def served(reranker: str, **options: Any) -> Any:
    return load_reranker(RerankerSettings(reranker=reranker, backend="torch", dtype="float32", **options))


@pytest.mark.parametrize("batch_tokens", [256, 16384])
def test_late_interaction_is_trained_on_the_scores_it_serves(encoder: Path, batch_tokens: int) -> None:
    scorer = scorers.load(settings(encoder, batch_tokens=batch_tokens), threads=1)
    expected = served("late_interaction", encoder=str(encoder)).score(QUERY, PASSAGES)
    np.testing.assert_allclose(scorer.score(QUERY, PASSAGES).detach().numpy(), expected, atol=1e-3)


def test_a_cross_encoder_is_trained_on_the_scores_it_serves(cross_encoder: Path) -> None:
    scorer = scorers.load(settings(cross_encoder, kind="cross_encoder", batch_tokens=256), threads=1)
    expected = served(str(cross_encoder)).score(QUERY, PASSAGES)
    np.testing.assert_allclose(scorer.score(QUERY, PASSAGES).detach().numpy(), expected, atol=1e-4)


def softmax_loss(scores: Any, first: int) -> float:
    return float(np.log(np.exp(scores).sum()) - scores[first])


def test_the_loss_of_a_cross_encoder_is_that_of_its_list(cross_encoder: Path) -> None:
    scorer = scorers.load(settings(cross_encoder, kind="cross_encoder"), threads=1)
    listings = [
        Listing(QUERY, PASSAGES[:3], [0, 1, 2], frozenset({0})),
        Listing("the heron", PASSAGES[1:3], [1, 2], frozenset({1})),
    ]
    expected = [softmax_loss(served(str(cross_encoder)).score(x.query, x.passages), 0) for x in listings]
    np.testing.assert_allclose(scorer.losses(listings).detach().numpy(), expected, atol=1e-4)


def test_late_interaction_takes_the_other_passages_for_negatives_unless_they_are_relevant(encoder: Path) -> None:
    scorer = scorers.load(settings(encoder, temperature=0.1), threads=1)
    listings = [
        Listing(QUERY, [PASSAGES[0], PASSAGES[1]], [0, 1], frozenset({0, 3})),
        Listing("the heron", [PASSAGES[1], PASSAGES[3]], [1, 3], frozenset({1})),
    ]
    reranker = served("late_interaction", encoder=str(encoder))
    first = reranker.score(QUERY, [PASSAGES[0], PASSAGES[1]]) / 0.1  # passage 3 is relevant too
    second = reranker.score("the heron", [PASSAGES[1], PASSAGES[0], PASSAGES[3]]) / 0.1
    expected = [softmax_loss(first, 0), softmax_loss(second, 0)]
    np.testing.assert_allclose(scorer.losses(listings).detach().numpy(), expected, atol=1e-2)


def test_a_model_that_does_not_fit_the_kind_is_refused(encoder: Path, cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="--kind cross_encoder"):
        scorers.load(settings(cross_encoder), threads=1)
    three = tiny_models.save_cross_encoder(tmp_path, labels=3)
    with pytest.raises(ModelUnavailable, match="3 scores"):
        scorers.load(settings(three, kind="cross_encoder"), threads=1)


def test_a_worker_on_ray_tells_a_mistake_instead_of_being_started_again(cross_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"query": "q", "positive": "otter", "negatives": ["heron"]}')
    paths = {"data": str(tmp_path / "data"), "output": str(tmp_path / "out"), "base": str(cross_encoder)}
    run = plan_training(TrainSettings(encoder="hashing:16", device="cpu", **paths))
    run.begin()
    raise_worker_error(run)
    work({"training_run": run, "threads": 1})
    with pytest.raises(ModelUnavailable, match="--kind cross_encoder"):
        raise_worker_error(run)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_small_and_merge_into_the_weights(encoder: Path, kind: str) -> None:
    scorer = scorers.load(settings(encoder, kind=kind), threads=1)
    names = {name for name, _ in scorer.model.named_parameters()}
    adapters = Adapters(scorer.model, rank=2)
    trained = {name: weight for name, weight in scorer.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in trained)
    assert any("classifier" in name for name in trained) == (kind == "cross_encoder")
    with torch.no_grad():
        for weight in trained.values():
            weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    adapted = scorer.score(QUERY, PASSAGES).detach()
    adapters.merge()
    assert {name for name, _ in scorer.model.named_parameters()} == names
    torch.testing.assert_close(scorer.score(QUERY, PASSAGES).detach(), adapted, atol=1e-4, rtol=0)


def test_a_checkpoint_brings_back_every_bit(tmp_path: Path) -> None:
    def fresh() -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
        weights = {name: torch.nn.Parameter(torch.ones(3)) for name in ("a", "b")}
        return weights, torch.optim.AdamW(weights.values(), lr=0.1)

    def step(weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, value: float) -> None:
        for weight in weights.values():
            weight.grad = torch.full((3,), value)
        optimizer.step()

    weights, optimizer = fresh()
    assert checkpoint.load(tmp_path, weights, optimizer) is None
    step(weights, optimizer, 0.5)
    checkpoint.save(tmp_path, Position(step=1), weights, optimizer)
    step(weights, optimizer, -0.2)
    position = Position(step=2, seconds=1.5, best=0.5, best_step=1, curve=[{"step": 0}], losses=[0.25])
    checkpoint.save(tmp_path, position, weights, optimizer)
    (tmp_path / ".partial").mkdir()  # as a kill would leave it
    assert {path.name for path in tmp_path.glob("step-*")} == {"step-00000002"}
    assert {path.suffix for path in tmp_path.rglob("*.*") if path.is_file()} == {".safetensors", ".json"}
    again, other = fresh()
    assert checkpoint.load(tmp_path, again, other) == position
    step(weights, optimizer, 0.3)
    step(again, other, 0.3)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(("kind", "rank"), [("late_interaction", 0), ("late_interaction", 2), ("cross_encoder", 0)])
def test_the_result_is_served_by_its_folder(encoder: Path, tmp_path: Path, kind: str, rank: int) -> None:
    tiny_models.write_pairs(tmp_path / "data" / "pairs.jsonl", 40)
    run = plan_training(
        settings(
            encoder,
            data=str(tmp_path / "data"),
            output=str(tmp_path / "out"),
            kind=kind,
            lora_rank=rank,
            learning_rate=0.01,
            epochs=1,
            evaluations=2,
            max_length=32,
            licence="CC0",
        )
    )
    run.begin()
    train(run)
    told = run.publish()
    assert told["steps"] == 3
    files = {path.name for path in run.output.rglob("*") if path.is_file()}
    assert {"README.md", "learning_curve.json", "learning_curve.png", "model.safetensors"} <= files
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
    card = (run.output / "README.md").read_text()
    assert "CC0" in card
    assert run.data_digest in card
    check_served(run, encoder, kind)


def check_served(run: TrainingRun, encoder: Path, kind: str) -> None:
    reranker = served(str(run.output), encoder=str(encoder))
    scores = reranker.score(QUERY, PASSAGES)
    if kind == "cross_encoder":
        from sentence_transformers import CrossEncoder

        expected = CrossEncoder(str(run.output), device="cpu").predict([(QUERY, passage) for passage in PASSAGES])
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        return
    assert reranker.name() == f"late_interaction({run.output})"
    np.testing.assert_array_equal(scores, served("late_interaction", encoder=str(run.output)).score(QUERY, PASSAGES))
    untrained = served("late_interaction", encoder=str(encoder)).score(QUERY, PASSAGES)
    assert np.abs(scores - untrained).max() > 1e-3
    before, after = (
        load_encoder(EncoderSettings(encoder=str(path), device="cpu")).fingerprint() for path in (encoder, run.output)
    )
    # Prompts and length are those of the encoder, although fewer tokens were read while training.
    assert after.model_copy(update={"model": before.model, "weights": before.weights}) == before
    assert after.weights != before.weights
