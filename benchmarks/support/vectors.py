"""Keeps an encoder's vectors on disk, so that one pass over a collection serves index, queries and late interaction."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from shoal.encoders import TextVectors, TokenEncoder
from shoal.fingerprint import Fingerprint
from shoal.records import FloatArray

CHUNK = 512
Kind = Literal["query", "passage"]


class KeptEncoder:
    """An encoder that looks texts up that it was prepared for, and encodes others as ever."""

    def __init__(self, encoder: TokenEncoder, folder: Path) -> None:
        self._encoder = encoder
        self._folder = folder
        self._kept: dict[tuple[Kind, str], TextVectors] = {}

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._encoder.dim

    def fingerprint(self) -> Fingerprint:
        """That of the encoder."""
        return self._encoder.fingerprint()

    def prepare(self, kind: Kind, texts: Sequence[str]) -> None:
        """Encode texts, or map what an earlier run has kept of the very same ones."""
        settings = self.fingerprint().model_dump(exclude={"model"})
        digest = hashlib.sha256(json.dumps([settings, kind, list(texts)], sort_keys=True).encode()).hexdigest()[:16]
        facts, tokens = self._folder / f"{digest}.npz", self._folder / f"{digest}.tokens"
        if not facts.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(kind, texts, facts, tokens)
        with np.load(facts) as stored:
            vectors, ends = stored["vectors"], np.cumsum(stored["lengths"])
        mapped = np.memmap(tokens, np.float16, mode="r").reshape(int(ends[-1]), -1)
        for text, vector, end, length in zip(texts, vectors, ends, np.diff(ends, prepend=0), strict=True):
            self._kept[kind, text] = TextVectors(vector, mapped[end - length : end])

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), in input order."""
        return np.stack([one.vector for one in self.encode_query_tokens(texts)])

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), in input order."""
        return np.stack([one.vector for one in self.encode_passage_tokens(texts)])

    def encode_query_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode queries and their tokens, in input order."""
        return [self._kept.get(("query", text)) or self._encoder.encode_query_tokens([text])[0] for text in texts]

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages and their tokens, in input order."""
        return [self._kept.get(("passage", text)) or self._encoder.encode_passage_tokens([text])[0] for text in texts]

    def _write(self, kind: Kind, texts: Sequence[str], facts: Path, tokens: Path) -> None:
        encode = self._encoder.encode_query_tokens if kind == "query" else self._encoder.encode_passage_tokens
        vectors, lengths = [], []
        with tokens.open("wb") as file:
            for start in range(0, len(texts), CHUNK):
                for one in encode(texts[start : start + CHUNK]):
                    # As late interaction rounds them.
                    file.write(one.tokens.astype(np.float16).tobytes())
                    vectors.append(one.vector)
                    lengths.append(len(one.tokens))
        part = facts.with_suffix(".part.npz")
        np.savez(part, vectors=np.stack(vectors), lengths=np.array(lengths, np.int64))
        part.rename(facts)
