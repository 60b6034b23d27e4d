"""The file of a learned blend: regression trees over features of candidates, as JSON that is checked when read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.records import FloatArray
from shoal.search.blend_features import FEATURES
from shoal.system.atomic_files import replace_file

MAX_TREES = 1000
"""Trees of a blend, at most."""
MAX_NODES = 255
"""Nodes of a tree, leaves included, at most."""
MAX_DEPTH = 32
"""Decisions from the root of a tree to a leaf, at most."""
MAX_BYTES = 32 * 2**20
"""Bytes of a file, at most."""
LEAF = -1
"""What a leaf has in the place of a feature and of children."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Index = Annotated[int, Field(ge=LEAF, lt=MAX_NODES)]


class _Record(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, protected_namespaces=())


class Tree(_Record):
    """One regression tree: column i of every list is node i, and node 0 the root.

    From a node goes left whatever has at most `threshold` of its `feature`, an index into the features of the blend. A
    leaf has LEAF for feature and children. Children come behind their parent, and each node but the root is one once.
    """

    feature: Annotated[list[_Index], Field(min_length=1, max_length=MAX_NODES)]
    threshold: Annotated[list[_Number], Field(min_length=1, max_length=MAX_NODES)]
    left: Annotated[list[_Index], Field(min_length=1, max_length=MAX_NODES)]
    right: Annotated[list[_Index], Field(min_length=1, max_length=MAX_NODES)]
    value: Annotated[list[_Number], Field(min_length=1, max_length=MAX_NODES)]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        count = len(self.feature)
        if any(len(column) != count for column in (self.threshold, self.left, self.right, self.value)):
            raise ValueError("the lists of its nodes differ in length")
        depths, parents = [0] * count, [0] * count
        for node, children in enumerate(zip(self.left, self.right, strict=True)):
            is_leaf = self.feature[node] == LEAF
            if is_leaf != (children == (LEAF, LEAF)) or (not is_leaf and LEAF in children):
                raise ValueError(f"node {node} is neither a leaf nor a decision between two children")
            for child in () if is_leaf else children:
                if not node < child < count:
                    raise ValueError(f"child {child} of node {node} is none of the nodes behind it")
                depths[child], parents[child] = depths[node] + 1, parents[child] + 1
        if any(number != 1 for number in parents[1:]):
            raise ValueError(f"node {1 + next(i for i, n in enumerate(parents[1:]) if n != 1)} has not one parent")
        if max(depths) > MAX_DEPTH:
            raise ValueError(f"it is {max(depths)} deep, and may be {MAX_DEPTH}")
        return self

    @property
    def depth(self) -> int:
        """Decisions from the root to the leaf that is farthest from it."""
        depths = [0] * len(self.feature)
        for node, children in enumerate(zip(self.left, self.right, strict=True)):
            for child in children:
                if child != LEAF:
                    depths[child] = depths[node] + 1
        return max(depths)


class RerankerFingerprint(_Record):
    """The identity of a reranker: what decides the scores that a blend was fitted over.

    name: what the setting `reranker` was. kind: `shoal.rerankers.kind_of` it. weights: digest of its weights; None
    where the name alone tells what computes.
    """

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    kind: Annotated[str, Field(min_length=1, max_length=100)]
    weights: Annotated[str, Field(max_length=100)] | None = None

    def matches(self, other: "RerankerFingerprint") -> bool:
        """Whether both give the same scores; a model may lie elsewhere."""
        return self.model_copy(update={"name": other.name}) == other and (
            self.weights is not None or self.name == other.name
        )


class BlendModel(_Record):
    """A learned blend, and what it was fitted over.

    features: names of `shoal.search.blend_features.FEATURES`, in the order in which trees count them.
    weight: standard deviations of the score without it that one of the trees' sum is worth.
    encoder: of the index. reranker: what scored the candidates. analyzer: digest of the rules that cut texts into terms
    (`shoal.index_root.manifest.LexicalInfo`). training: how it was made, for people.
    """

    kind: Literal["shoal learned blend"] = "shoal learned blend"
    format_version: Literal[1] = 1
    features: Annotated[list[str], Field(min_length=1, max_length=len(FEATURES))]
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    encoder: Fingerprint
    reranker: RerankerFingerprint
    analyzer: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    trees: Annotated[list[Tree], Field(min_length=1, max_length=MAX_TREES)]
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if unknown := [name for name in self.features if name not in FEATURES]:
            raise ValueError(f"there is no feature {unknown[0]!r}")
        if len(set(self.features)) < len(self.features):
            raise ValueError("a feature is named twice")
        for number, tree in enumerate(self.trees):
            if max(tree.feature) >= len(self.features):
                raise ValueError(f"trees.{number} decides by feature {max(tree.feature)} of {len(self.features)}")
        return self

    def write(self, path: Path) -> None:
        """Write the file; it is there when it is whole."""
        replace_file(path, orjson.dumps(self.model_dump(mode="json")) + b"\n")


def read_blend(path: str) -> BlendModel:
    """Read the file of a learned blend.

    Raises InvalidArgument that names the file, where in it something is wrong, and what to do.
    """
    place = Path(path).expanduser()
    try:
        if place.stat().st_size > MAX_BYTES:
            raise _wrong(place, f"it has more than {MAX_BYTES:,} bytes")
        body = orjson.loads(place.read_bytes())
    except OSError as error:
        raise InvalidArgument(
            f"the learned blend {place} cannot be read: {error.strerror or error}; give a file of "
            "`python -m jobs.train_blend`",
            param="blend",
        ) from None
    except orjson.JSONDecodeError as error:
        raise _wrong(place, f"it is no JSON ({error})") from None
    try:
        return BlendModel.model_validate(body, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise _wrong(place, f"{where}: {first['msg']}") from None


def _wrong(place: Path, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"{place} is no learned blend: {reason}; write it again with `python -m jobs.train_blend`", param="blend"
    )


class Forest:
    """Trees, walked for all candidates at once. Immutable, safe for several threads.

    Args:
        trees: At least one.
        features: Names of the features, in the order in which the trees count them.
    """

    def __init__(self, trees: Sequence[Tree], features: Sequence[str]) -> None:
        self._columns = [FEATURES.index(name) for name in features]
        self._feature = _table([tree.feature for tree in trees], np.intp)
        self._threshold = _table([tree.threshold for tree in trees], np.float64)
        self._value = _table([tree.value for tree in trees], np.float64)
        self._left = _table([tree.left for tree in trees], np.intp)
        self._right = _table([tree.right for tree in trees], np.intp)
        # Whoever has come to a leaf stays there, whatever a feature says.
        leaves = self._feature == LEAF
        itself = np.broadcast_to(np.arange(leaves.shape[1]), leaves.shape)
        self._left, self._right = np.where(leaves, itself, self._left), np.where(leaves, itself, self._right)
        self._feature = np.where(leaves, 0, self._feature)
        self._depth = max(tree.depth for tree in trees)
        self._trees = np.arange(len(trees))[:, None]

    def values(self, features: FloatArray) -> NDArray[np.float64]:
        """Return what each of t trees gives, float64 (t, n), for features, float32 (n, len(FEATURES))."""
        chosen = features[:, self._columns]
        rows = np.arange(len(chosen))
        nodes = np.zeros((len(self._trees), len(chosen)), np.intp)
        for _ in range(self._depth):
            goes_left = chosen[rows, self._feature[self._trees, nodes]] <= self._threshold[self._trees, nodes]
            nodes = np.where(goes_left, self._left[self._trees, nodes], self._right[self._trees, nodes])
        values: NDArray[np.float64] = self._value[self._trees, nodes]
        return values

    def predict(self, features: FloatArray) -> NDArray[np.float64]:
        """Return the sums over the trees, float64 (n,), for features, float32 (n, len(FEATURES))."""
        total: NDArray[np.float64] = self.values(features).sum(axis=0)
        return total


def _table(columns: Sequence[Sequence[float]], dtype: type) -> NDArray[Any]:
    """One list of each of several trees, (trees, longest); shorter ones end with nodes that nobody comes to."""
    table: NDArray[Any] = np.full((len(columns), max(map(len, columns))), LEAF, dtype)
    for row, column in zip(table, columns, strict=True):
        row[: len(column)] = column
    return table
