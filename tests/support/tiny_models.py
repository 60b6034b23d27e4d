"""Models with random weights, small enough to make in a test, saved the way users have them: as folders."""

import json
import random
from pathlib import Path
from typing import Any

import torch

WORDS = ["the", "a", "of", "query", "passage", "red", "blue", "fish", "heron", "otter", "bone", "vitamin", "disease"]


def save_bi_encoder(
    folder: Path,
    pooling: str = "mean",
    prompts: dict[str, str] | None = None,
    *,
    include_prompt: bool = True,
    dense: bool = False,
) -> Path:
    """Save a sentence-transformers model of 32 dimensions, or 16 with a dense layer, that reads 64 tokens.

    include_prompt: whether the tokens of the prompt take part in pooling.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    _save(BertModel(BertConfig(**_SIZES)), folder / "bare")
    modules = [Transformer(str(folder / "bare")), Pooling(32, pooling, include_prompt=include_prompt)]
    modules += [Dense(32, 16), Normalize()] if dense else [Normalize()]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder / "model"))
    return folder / "model"


def save_cross_encoder(folder: Path, labels: int = 1, activation: str = "torch.nn.modules.linear.Identity") -> Path:
    """Save a sequence classifier that reads 64 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(7)
    config = BertConfig(**_SIZES, num_labels=labels, sentence_transformers={"activation_fn": activation})
    return _save(BertForSequenceClassification(config), folder / "cross-encoder")


def save_sparse(folder: Path, *, inference_free: bool = False) -> Path:
    """Save a SPLADE model that reads 64 tokens; its queries may be looked up in a table of weights instead."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(7)
    network = BertForMaskedLM(BertConfig(**_SIZES))
    bare = _save(network, folder / "bare-masked")
    modules: list[Any] = [Transformer(str(bare), transformer_task="fill-mask"), SpladePooling("max")]
    if inference_free:
        table = SparseStaticEmbedding(bert_tokenizer(64), weight=torch.rand(len(bert_tokenizer(64))), frozen=True)
        modules = [Router.for_query_document(query_modules=[table], document_modules=modules)]
    model = SparseEncoder(modules=modules, device="cpu", max_active_dims=12)
    model.save(str(folder / f"sparse-{inference_free}"))
    return folder / f"sparse-{inference_free}"


def save_roberta(folder: Path) -> Path:
    """Save a model of the RoBERTa family with 66 positions, the first two of which no token has."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(7)
    return _save(
        XLMRobertaModel(XLMRobertaConfig(**{**_SIZES, "max_position_embeddings": 66, "pad_token_id": 1})), folder
    )


def bert_tokenizer(length: int) -> Any:
    """Make a tokenizer of WORDS and of characters, for a model that reads so many tokens."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=_VOCABULARY, model_max_length=length)


def _save(model: torch.nn.Module, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    bert_tokenizer(64).save_pretrained(folder)
    return folder


_CHARACTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
_TOKENS = [
    "[UNK]",
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *_CHARACTERS,
    *(f"##{character}" for character in _CHARACTERS),
    *WORDS,
]
_VOCABULARY = {token: number for number, token in enumerate(dict.fromkeys(_TOKENS))}
_SIZES = {
    "vocab_size": len(_VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "initializer_range": 0.5,  # large, so that vectors and scores of different texts differ
}


def write_pairs(path: Path, count: int) -> None:
    """Write judgements: queries of three words out of the passage that answers them."""
    chance = random.Random(7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for number in range(count):
            words = [chance.choice(WORDS) for _ in range(chance.randint(5, 30))]
            query = f"{' '.join(chance.sample(words, 3))} {number}"
            file.write(json.dumps({"query": query, "positive": f"{' '.join(words)} {number}"}) + "\n")
