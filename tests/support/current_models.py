"""Embedding models and rerankers of today in small: the real architecture, tokenizer, modules and prompts, with random
weights, saved as their repositories hold them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers, processors

POSITIONS = 96
"""Tokens of a text that each of these models reads."""
_WINDOW = 8
"""Tokens of the sliding attention of those that have one: short, so that the texts of tests exceed it."""
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,  # large, so that vectors and scores of different texts differ
}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 16}
"""Sizes of the decoders: query heads that share keys and values."""


@dataclass(frozen=True)
class Family:
    """How a family of encoders is saved.

    make: Gives the model and its tokenizer.
    pooling, dense, prompts: What its `modules.json` and `config_sentence_transformers.json` say; `dense` are the sizes
    of the layers behind the pooling.
    shown: Its pooling as a fingerprint names it.
    converts: Whether OpenVINO computes it.
    """

    make: Callable[[], tuple[Any, Any]]
    pooling: str
    prompts: dict[str, str] = field(default_factory=dict)
    dense: tuple[int, ...] = ()
    shown: str = ""
    converts: bool = True


def _bytes() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _qwen_tokenizer(*, ends: bool, length: int = POSITIONS) -> Any:
    """Bytes as tokens, padded on the left; `ends`: whether each text gets an end, as the embedding models have it."""
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "yes", "no", "0", "1"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special, *_bytes()]))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], padding_side="left", model_max_length=length)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:3]})
    if ends:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>",
            pair="$A <|endoftext|> $B:1 <|endoftext|>:1",
            special_tokens=[("<|endoftext|>", 0)],
        )
    return tokenizer


def _roberta_tokenizer() -> Any:
    from transformers import XLMRobertaTokenizer

    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(f"{start}{chr(code)}", -3.0) for start in ("▁", "") for code in range(33, 127)]
    vocabulary = [*special, ("▁", -4.0), *pieces, ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocabulary, model_max_length=POSITIONS)


def _modern_bert_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *_bytes()])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.normalizer, made.decoder = normalizers.NFC(), decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [*special, "▁", *(chr(code) for code in range(33, 127)), *(f"<0x{code:02X}>" for code in range(256))]
    tokenizer = GemmaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        model_max_length=POSITIONS,
        padding_side="right",
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> <bos> $B:1 <eos>:1", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return tokenizer


def _bert_tokenizer() -> Any:
    from tests.support.tiny_models import bert_tokenizer

    return bert_tokenizer(POSITIONS)


def _qwen3() -> tuple[Any, Any]:
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = _qwen_tokenizer(ends=True)
    return Qwen3Model(Qwen3Config(**_SIZES, **_GROUPED, vocab_size=len(tokenizer))), tokenizer


def _gemma() -> tuple[Any, Any]:
    from transformers import Gemma3TextConfig, Gemma3TextModel

    tokenizer = _gemma_tokenizer()
    config = Gemma3TextConfig(
        **_SIZES,
        **_GROUPED,
        vocab_size=len(tokenizer),
        query_pre_attn_scalar=16,
        sliding_window=_WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        use_bidirectional_attention=True,
    )
    return Gemma3TextModel(config), tokenizer


def _modern_bert() -> tuple[Any, Any]:
    from transformers import ModernBertModel

    tokenizer = _modern_bert_tokenizer()
    return ModernBertModel(_modern_bert_config(tokenizer)), tokenizer


def _modern_bert_config(tokenizer: Any, **options: Any) -> Any:
    from transformers import ModernBertConfig

    return ModernBertConfig(
        **_SIZES,
        vocab_size=len(tokenizer),
        local_attention=_WINDOW,
        layer_types=["full_attention", "sliding_attention"],
        pad_token_id=3,
        eos_token_id=2,
        bos_token_id=1,
        cls_token_id=1,
        sep_token_id=2,
        **options,
    )


def _roberta_sizes(tokenizer: Any) -> dict[str, Any]:
    # Positions count from behind the padding index.
    return {**_SIZES, "max_position_embeddings": POSITIONS + 2, "vocab_size": len(tokenizer), "pad_token_id": 1}


def _xlm_roberta() -> tuple[Any, Any]:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    tokenizer = _roberta_tokenizer()
    return XLMRobertaModel(XLMRobertaConfig(**_roberta_sizes(tokenizer), type_vocab_size=1)), tokenizer


def _bert() -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel

    tokenizer = _bert_tokenizer()
    return BertModel(BertConfig(**_SIZES, vocab_size=len(tokenizer), pad_token_id=1)), tokenizer


def _nomic() -> tuple[Any, Any]:
    from transformers import NomicBertConfig, NomicBertModel

    tokenizer = _bert_tokenizer()
    return NomicBertModel(NomicBertConfig(**_SIZES, vocab_size=len(tokenizer), pad_token_id=1)), tokenizer


def _jina() -> tuple[Any, Any]:
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    tokenizer = _roberta_tokenizer()
    config = JinaEmbeddingsV3Config(**{**_SIZES, "vocab_size": len(tokenizer), "pad_token_id": 1})
    return JinaEmbeddingsV3Model(config), tokenizer


def _gte() -> tuple[Any, Any]:
    from transformers import GteConfig, GteModel

    tokenizer = _roberta_tokenizer()
    return GteModel(GteConfig(**{**_SIZES, "vocab_size": len(tokenizer), "pad_token_id": 1})), tokenizer


FAMILIES = {
    "qwen3-embedding": Family(
        _qwen3,
        "lasttoken",
        {
            "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
            "document": "",
        },
    ),
    "embeddinggemma": Family(
        _gemma,
        "mean",
        {"query": "task: search result | query: ", "document": "title: none | text: "},
        dense=(64, 32),
        shown="mean+dense+dense",
    ),
    "modernbert": Family(_modern_bert, "cls"),
    "nomic-modernbert": Family(_modern_bert, "mean", {"query": "search_query: ", "document": "search_document: "}),
    "bge-m3": Family(_xlm_roberta, "cls"),
    "arctic-embed": Family(_bert, "cls", {"query": "Represent this sentence for searching relevant passages: "}),
    "arctic-embed-v2": Family(_xlm_roberta, "cls", {"query": "query: "}),
    "nomic": Family(_nomic, "mean", {"query": "search_query: ", "passage": "search_document: "}),
    "jina-v3": Family(_jina, "mean", {"query": "Represent the query: ", "document": "Represent the document: "}),
    "gte": Family(_gte, "cls"),
}
"""The families of encoders, by names of tests."""


def save_encoder(name: str, folder: Path) -> Path:
    """Save an encoder of a family. Returns its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    family = FAMILIES[name]
    torch.manual_seed(7)
    model, tokenizer = family.make()
    model.eval().save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    modules = [Transformer(str(folder / "bare")), Pooling(32, family.pooling)]
    width = 32
    for size in family.dense:
        modules.append(Dense(width, size, bias=False, activation_function=torch.nn.Identity()))
        width = size
    SentenceTransformer(modules=[*modules, Normalize()], device="cpu", prompts=dict(family.prompts)).save(
        str(folder / name)
    )
    return folder / name


PAIR_POSITIONS = 256
"""Tokens of a pair that each of these rerankers reads."""
TEMPLATE = (
    "<|im_start|>system\nAnswer yes or no.<|im_end|>\n<|im_start|>user\n"
    '<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first }}\n'
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}'
    "<|im_end|>\n<|im_start|>assistant\n"
)
"""How a language model is shown a pair, as the repositories for sentence-transformers have it."""


def save_language_reranker(folder: Path, name: str) -> Path:
    """Save a language model that says how well a passage answers: `qwen3` by yes and no, `mxbai` by 1 and 0.

    Returns its folder.
    """
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    torch.manual_seed(7)
    tokenizer = _qwen_tokenizer(ends=False, length=PAIR_POSITIONS)
    model = (_qwen3_language if name == "qwen3" else _qwen2_language)(len(tokenizer))
    tokenizer.chat_template = TEMPLATE
    model.eval().save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    yes, no = ("yes", "no") if name == "qwen3" else ("1", "0")
    ids = [tokenizer.convert_tokens_to_ids(token) for token in (yes, no)]
    made = CrossEncoder(
        modules=[Transformer(str(folder / "bare"), transformer_task="text-generation"), LogitScore(*ids)],
        device="cpu",
        prompts={"web": "Find what answers the query"},
        default_prompt_name="web",
        activation_fn=torch.nn.Identity() if name == "mxbai" else None,
    )
    made.save(str(folder / name))
    return folder / name


def save_classifier(folder: Path, name: str) -> Path:
    """Save a cross-encoder with a head for one score: `modernbert` or `xlm-roberta`. Returns its folder."""
    from transformers import ModernBertForSequenceClassification, XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(7)
    if name == "modernbert":
        tokenizer = _modern_bert_tokenizer()
        config = _modern_bert_config(tokenizer, num_labels=1, classifier_pooling="mean")
        model: Any = ModernBertForSequenceClassification(config)
    else:
        tokenizer = _roberta_tokenizer()
        model = XLMRobertaForSequenceClassification(
            XLMRobertaConfig(**_roberta_sizes(tokenizer), type_vocab_size=1, num_labels=1)
        )
    model.eval().save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


def _qwen3_language(tokens: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_language_sizes(tokens), head_dim=16))


def _qwen2_language(tokens: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_language_sizes(tokens)))


def _language_sizes(tokens: int) -> dict[str, Any]:
    positions = {"max_position_embeddings": PAIR_POSITIONS, "vocab_size": tokens, "tie_word_embeddings": True}
    return {**_SIZES, **positions, "num_key_value_heads": 1}


def save_multi_vector(folder: Path, *, expands: bool) -> Path:
    """Save a model with a vector of 16 dimensions for each token, as ColBERT has them.

    expands: whether queries are filled up to 32 tokens, and punctuation of passages does not count. Returns its folder.
    """
    import string

    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(7)
    model, tokenizer = _modern_bert()
    bare = folder / f"bare-{expands}"
    model.eval().save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    expansion: Any = {"strategy": "fixed", "attend": False, "length": 32} if expands else None
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    modules = [
        Transformer(str(bare), query_expansion=expansion),
        Dense(32, 16, bias=False, activation_function=torch.nn.Identity(), **names),
        MultiVectorMask(list(string.punctuation) if expands else None),
        Normalize(module_input_name="token_embeddings"),
    ]
    made = MultiVectorEncoder(modules=modules, device="cpu", prompts={"query": "[Q] ", "document": "[D] "})
    made.save(str(folder / f"multi-{expands}"))
    return folder / f"multi-{expands}"
