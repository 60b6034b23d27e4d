"""An index version as searches need to know it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.encoders._absent import is_absent
from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint, instructed
from shoal.index_root.manifest import LexicalInfo, Manifest, VectorIndexInfo
from shoal.metadata import FieldTypes
from shoal.records import FloatArray
from shoal.shard.retrievers import retriever_names

_SPECIAL_TOKENS = 8
"""Tokens that a model sets around a text, at most."""
_TOKENS_OF_A_BYTE = 6
"""Tokens of a byte of UTF-8, at most: one character of three bytes stands for eighteen (U+FDFA)."""


@dataclass(frozen=True, eq=False, slots=True)
class ServedVersion:
    """An index version that searches are answered from. Two are equal only if they are the same object.

    counts: passages of each shard, in order.
    retrievers: names of the ways in which its shards can be searched.
    fields: types of its metadata fields, for filters.
    index: its vector index, for queries that ask for a recall; None takes any recall for reached.
    has_token_vectors: whether its shards hold token vectors, for late interaction.
    encoder: what its passages were encoded with; None if that is not known.
    lexical: how its words were indexed; None if they were not, or if that is not known.
    """

    name: str
    counts: tuple[int, ...]
    retrievers: tuple[str, ...] = ("dense",)
    fields: FieldTypes = field(default_factory=dict)
    index: VectorIndexInfo | None = None
    has_token_vectors: bool = False
    encoder: Fingerprint | None = None
    lexical: LexicalInfo | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "ServedVersion":
        """Describe the version of a manifest."""
        return cls(
            name=manifest.version,
            counts=tuple(shard.count for shard in manifest.shards),
            retrievers=retriever_names(manifest),
            fields=manifest.fields,
            index=manifest.index,
            has_token_vectors=manifest.late is not None,
            encoder=manifest.encoder,
            lexical=manifest.lexical,
        )

    def count_passages(self, shards: Mapping[int, object] | None = None) -> int:
        """Count the passages of these shards, or of all."""
        return sum(self.counts) if shards is None else sum(self.counts[shard] for shard in shards)

    def check_dimensions(self, vector: FloatArray) -> None:
        """Raise InvalidArgument for a vector that has not the dimensions of the index."""
        if self.encoder is not None and len(vector) != self.encoder.dim:
            raise InvalidArgument(
                f"vector should have {self.encoder.dim} numbers, as the vectors of version {self.name} have, not "
                f"{len(vector)}",
                param="vector",
            )

    def check_instruction(self, instruction: str) -> None:
        """Raise InvalidArgument for an instruction that the encoder does not read."""
        if self.encoder is not None:
            instructed(self.encoder.query_prompt, instruction)

    def require_encoder(self) -> None:
        """Raise InvalidArgument where texts cannot be encoded, because all vectors come with documents and queries."""
        if self.encoder is not None and is_absent(self.encoder.model):
            raise InvalidArgument(
                f"version {self.name} has no encoder: its vectors of {self.encoder.dim} dimensions come from "
                "elsewhere; send one (vector), search by words (mode lexical), or build one with an encoder",
                param="query",
            )

    def may_cut(self, query: str) -> bool:
        """Whether a query may have more tokens than the encoder reads: quickly told, without its tokenizer.

        A token is a character of ASCII or more. Others may be several tokens each, above all those that normalising
        makes several characters of.
        """
        if self.encoder is None:
            return False
        text = self.encoder.query_prompt + query
        most = len(text) if text.isascii() else _TOKENS_OF_A_BYTE * len(text.encode("utf-8", "replace"))
        return most + _SPECIAL_TOKENS > self.encoder.max_length

    def cut_warning(self, length: int | None) -> str | None:
        """Say that a query of so many tokens was cut, or may have been if they are not known; None if it was not."""
        if self.encoder is None or (length is not None and length <= self.encoder.max_length):
            return None
        read = self.encoder.max_length
        if length is None:
            return f"the query may have more than the {read:,} tokens that the encoder reads; it could not be counted"
        return (
            f"the query has {length:,} tokens, and the encoder reads {read:,} of them; "
            "the rest was not searched for by vectors"
        )

    def search_params(self, recall: float | None) -> str:
        """Return the parameters that give a recall, "" for the version's own. Raises InvalidArgument if none do."""
        return "" if recall is None or self.index is None else self.index.search_for(recall)
