"""Learned blends that order answers otherwise than they are ordered without one."""

from pathlib import Path
from typing import Any

from shoal.index_root.manifest import Manifest
from shoal.search.blend_model import LEAF, BlendModel, Tree
from shoal.search.learned_blend import fingerprint_reranker

FEATURES = ["first_match", "dense_z"]
WEIGHT = 3.0
TREE = Tree(
    feature=[0, 1, LEAF, LEAF, LEAF],
    threshold=[0.3, 0.2, 0.0, 0.0, 0.0],
    left=[1, 3, LEAF, LEAF, LEAF],
    right=[2, 4, LEAF, LEAF, LEAF],
    value=[0.0, 0.0, -1.0, 2.0, 0.5],
)
"""-1 where the first word of a query comes late in a text; else 2, or 0.5 with a z-score of the cosine over 0.2."""


def write_blend(path: Path, manifest: Manifest, reranker: str, **changes: Any) -> None:
    """Write a blend of one tree for a version and a reranker."""
    assert manifest.lexical is not None
    fields = {
        "features": FEATURES,
        "weight": WEIGHT,
        "encoder": manifest.encoder,
        "reranker": fingerprint_reranker(reranker),
        "analyzer": manifest.lexical.analyzer_digest,
        "trees": [TREE],
    }
    BlendModel(**{**fields, **changes}).write(path)
