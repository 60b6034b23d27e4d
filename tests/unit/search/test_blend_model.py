"""Trees of a learned blend: walked as scikit-learn walks them, and refused where a file is damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor

from shoal.errors import InvalidArgument
from shoal.search import blend_model
from shoal.search.blend_features import FEATURES
from shoal.search.blend_model import LEAF, BlendModel, Forest, RerankerFingerprint, Tree, read_blend
from shoal.testing.fakes import fingerprint
from shoal.training.lambdamart import as_tree


def stump(feature: int = 0, threshold: float = 0.0, below: float = -1.0, above: float = 1.0) -> Tree:
    return Tree(
        feature=[feature, LEAF, LEAF],
        threshold=[threshold, 0.0, 0.0],
        left=[1, LEAF, LEAF],
        right=[2, LEAF, LEAF],
        value=[0.0, below, above],
    )


def model(**changes: Any) -> BlendModel:
    fields = {
        "features": list(FEATURES),
        "weight": 0.5,
        "encoder": fingerprint(64),
        "reranker": RerankerFingerprint(name="overlap", kind="overlap"),
        "analyzer": f"sha256:{'0' * 64}",
        "trees": [stump()],
    }
    return BlendModel(**{**fields, **changes})


def walk(tree: Tree, row: np.ndarray) -> float:
    node = 0
    while tree.feature[node] != LEAF:
        node = (tree.left if row[tree.feature[node]] <= tree.threshold[node] else tree.right)[node]
    return tree.value[node]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree of up to 8 leaves: one leaf after the other becomes a decision."""
    number = st.floats(-2, 2, width=32)
    columns: dict[str, list[Any]] = {"feature": [LEAF], "threshold": [0.0], "left": [LEAF], "right": [LEAF]}
    for _ in range(draw(st.integers(0, 7))):
        leaf = draw(st.sampled_from([node for node, feature in enumerate(columns["feature"]) if feature == LEAF]))
        for name, value in (("feature", LEAF), ("threshold", 0.0), ("left", LEAF), ("right", LEAF)):
            columns[name] += [value, value]
        count = len(columns["feature"])
        columns["feature"][leaf], columns["threshold"][leaf] = draw(st.integers(0, 4)), draw(number)
        columns["left"][leaf], columns["right"][leaf] = count - 2, count - 1
    values = draw(st.lists(number, min_size=len(columns["feature"]), max_size=len(columns["feature"])))
    return Tree(**columns, value=values)


@given(forest=st.lists(trees(), min_size=1, max_size=5), seed=st.integers(0, 1000), count=st.integers(0, 9))
def test_all_trees_are_walked_at_once_as_one_after_the_other(forest: list[Tree], seed: int, count: int) -> None:
    features = np.random.default_rng(seed).normal(size=(count, len(FEATURES))).astype(np.float32)
    names = [FEATURES[place] for place in (7, 3, 11, 0, 20)]
    chosen = features[:, [7, 3, 11, 0, 20]]
    expected = np.array([[walk(tree, row) for row in chosen] for tree in forest]).reshape(len(forest), count)
    walked = Forest(forest, names)
    np.testing.assert_array_equal(walked.values(features), expected)
    np.testing.assert_allclose(walked.predict(features), expected.sum(axis=0))
    again = BlendModel.model_validate(orjson.loads(orjson.dumps(model(features=names, trees=forest).model_dump())))
    np.testing.assert_array_equal(Forest(again.trees, again.features).values(features), expected)


def test_trees_predict_what_scikit_learn_predicts() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(500, len(FEATURES))).astype(np.float32)
    target = features[:, 1] * features[:, 4] + draw.normal(size=500) / 10
    fitted = GradientBoostingRegressor(n_estimators=40, max_leaf_nodes=8, init="zero", random_state=0)
    fitted.fit(features, target)
    forest = Forest([as_tree(each, fitted.learning_rate) for each in fitted.estimators_[:, 0]], FEATURES)
    unseen = draw.normal(size=(200, len(FEATURES))).astype(np.float32)
    np.testing.assert_allclose(forest.predict(unseen), fitted.predict(unseen), atol=1e-6)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = model(trees=[stump(3, 0.1 + 0.2, 1e-17, -1 / 3), stump()], training={"queries": 80})
    written.write(tmp_path / "blend.json")
    assert read_blend(str(tmp_path / "blend.json")) == written
    assert [path.name for path in tmp_path.iterdir()] == ["blend.json"]


def first_tree(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda body: change(body["trees"][0])


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown feature": (lambda body: body["features"].__setitem__(0, "charm"), "no feature 'charm'"),
    "feature twice": (lambda body: body["features"].__setitem__(0, body["features"][1]), "named twice"),
    "no trees": (lambda body: body.update(trees=[]), "trees: "),
    "too many trees": (lambda body: body.update(trees=body["trees"] * 1001), "trees: "),
    "other format": (lambda body: body.update(format_version=2), "format_version: "),
    "other kind": (lambda body: body.update(kind="a dashboard"), "kind: "),
    "text for a number": (lambda body: body.update(weight="0.5"), "weight: "),
    "no weight": (lambda body: body.update(weight=0.0), "weight: "),
    "unknown field": (lambda body: body.update(charm=1), "charm: "),
    "digest": (lambda body: body.update(analyzer="md5:0"), "analyzer: "),
    "feature out of range": (first_tree(lambda tree: tree["feature"].__setitem__(0, 99)), "decides by feature 99 of"),
    "node out of range": (first_tree(lambda tree: tree["left"].__setitem__(0, 7)), "child 7 of node 0"),
    "circle": (first_tree(lambda tree: tree["left"].__setitem__(0, 0)), "child 0 of node 0"),
    "two parents": (first_tree(lambda tree: tree["left"].__setitem__(0, 2)), "node 1 has not one parent"),
    "half a leaf": (first_tree(lambda tree: tree["right"].__setitem__(0, LEAF)), "node 0 is neither"),
    "lengths": (first_tree(lambda tree: tree["value"].append(0.0)), "differ in length"),
    "too many nodes": (first_tree(lambda tree: tree.update(value=[0.0] * 300)), "trees.0.value"),
    "no number": (first_tree(lambda tree: tree["threshold"].__setitem__(0, None)), "trees.0.threshold.0"),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_file_is_refused_with_its_place_and_the_remedy(tmp_path: Path, name: str) -> None:
    damage, place = DAMAGES[name]
    body = model().model_dump(mode="json")
    damage(body)
    path = tmp_path / "blend.json"
    path.write_text(json.dumps(body))
    with pytest.raises(InvalidArgument, match=r"write it again with `python -m jobs\.train_blend`") as refused:
        read_blend(str(path))
    assert str(path) in refused.value.message
    assert place in refused.value.message
    assert refused.value.param == "blend"


def test_numbers_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "blend.json"
    path.write_text(json.dumps(model().model_dump(mode="json")).replace('"weight": 0.5', '"weight": NaN'))
    with pytest.raises(InvalidArgument, match="no JSON"):
        read_blend(str(path))
    chain = 2 * (blend_model.MAX_DEPTH + 1) + 1
    deep = {
        "feature": [0 if node % 2 == 0 and node < chain - 1 else LEAF for node in range(chain)],
        "threshold": [0.0] * chain,
        "left": [node + 1 if node % 2 == 0 and node < chain - 1 else LEAF for node in range(chain)],
        "right": [node + 2 if node % 2 == 0 and node < chain - 1 else LEAF for node in range(chain)],
        "value": [0.0] * chain,
    }
    path.write_text(json.dumps({**model().model_dump(mode="json"), "trees": [deep]}))
    with pytest.raises(InvalidArgument, match="33 deep, and may be 32"):
        read_blend(str(path))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b'"text"', b"{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "blend.json"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match="is no learned blend"):
        read_blend(str(path))


def test_a_file_that_is_away_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot be read: No such file.*jobs\.train_blend"):
        read_blend(str(tmp_path / "away.json"))
    model().write(tmp_path / "blend.json")
    monkeypatch.setattr(blend_model, "MAX_BYTES", 100)
    with pytest.raises(InvalidArgument, match="more than 100 bytes"):
        read_blend(str(tmp_path / "blend.json"))


def test_a_reranker_is_known_by_its_weights_and_else_by_its_name() -> None:
    here = RerankerFingerprint(name="/models/a", kind="cross_encoder", weights="sha256:1")
    assert here.matches(here.model_copy(update={"name": "/elsewhere/a"}))
    assert not here.matches(here.model_copy(update={"weights": "sha256:2"}))
    remote = RerankerFingerprint(name="http://a", kind="_remote")
    assert remote.matches(remote)
    assert not remote.matches(remote.model_copy(update={"name": "http://b"}))
