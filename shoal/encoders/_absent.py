"""The encoder of an index that has none: its vectors come with its documents and with its queries.

Named `none:384`, by the dimension of those vectors, so that manifests, servers and builds need no second case.
"""

from collections.abc import Sequence

from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.records import FloatArray

NAME = "none"
"""What stands before the colon and the dimension."""
MOST_DIMENSIONS = 65_536
"""Dimensions of a vector, at most."""

_LEAST_LENGTH = 8
"""Tokens that the setting `max_length` allows at least; none is read."""


class AbsentEncoder:
    """Implements `Encoder` by saying that texts cannot be encoded."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._dim

    def fingerprint(self) -> Fingerprint:
        """Name the dimension, which is all that decides whether a vector can be compared."""
        return Fingerprint(
            model=name_of(self._dim),
            weights=NAME,
            dim=self._dim,
            pooling=NAME,
            query_prompt="",
            passage_prompt="",
            max_length=_LEAST_LENGTH,
            dtype="float32",
        )

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Raise InvalidArgument."""
        raise InvalidArgument(
            f"this index has no encoder: its vectors of {self._dim} dimensions come from elsewhere; search it by words "
            "with mode lexical, or create one with an encoder",
            param="query",
        )

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Raise InvalidArgument."""
        raise InvalidArgument(
            f"this index has no encoder: passages have to bring their vectors of {self._dim} dimensions, which a build "
            "reads from --vectors-field; or name an encoder",
            param="encoder",
        )


def name_of(dim: int) -> str:
    """The name, as the setting `encoder` takes it, for vectors of so many dimensions."""
    return f"{NAME}:{dim}"


def is_absent(model: str) -> bool:
    """Whether the setting `encoder` says that there is none."""
    return model.partition(":")[0] == NAME


def load(model: str) -> AbsentEncoder:
    """Load `none:DIM`. Raises InvalidArgument for another name or a dimension outside 1 to 65536."""
    _, _, dim = model.partition(":")
    if not (dim.isascii() and dim.isdigit() and 1 <= int(dim) <= MOST_DIMENSIONS):
        raise InvalidArgument(
            f"encoder={model!r}: an index without an encoder is named by its dimensions, such as none:384",
            param="encoder",
        )
    return AbsentEncoder(int(dim))
