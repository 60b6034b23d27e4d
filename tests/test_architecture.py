"""Rules of the tree that no single module can keep by itself."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("shoal", "serve", "jobs")
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "benchmarks", "cluster",
    "constraints.txt", "docs", "jobs", "pyproject.toml", "serve", "shoal", "tests",
}  # fmt: skip
HEAVY = (
    "torch",
    "faiss",
    "openvino",
    "ray",
    "fastapi",
    "pyarrow",
    "sentence_transformers",
    "transformers",
    "httpx",
    "pandas",
)


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in listing.stdout.splitlines() if (ROOT / line).exists()]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_the_top_level_holds_what_the_design_names() -> None:
    assert {path.parts[0] for path in tracked()} <= TOP_LEVEL


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_nobody_imports_serve_as_a_module() -> None:
    """`import serve.x` binds the name `serve`, which Ray's `from ray import serve` uses too."""
    for path in sources(*PACKAGES, "cluster", "tests", "benchmarks"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                assert not any(name.name.split(".")[0] == "serve" for name in node.names), f"{path}:{node.lineno}"


def test_few_modules_of_serve_import_ray() -> None:
    allowed = {"app.py", "run.py", "worker_setup.py"}
    for path in sources("serve"):
        imports = [
            node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [getattr(node, "module", None) or node.names[0].name for node in imports]
        if any(name.split(".")[0] == "ray" for name in names):
            assert path.name in allowed or path.parent.name == "ray_adapters", path


def test_the_core_is_cheap_to_import() -> None:
    modules = "shoal, shoal.errors, shoal.records, shoal.settings, shoal.index_root.layout, shoal.cli.main, sys"
    program = f"import {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(HEAVY) & set(loaded)


def test_no_module_of_the_application_shadows_another_package() -> None:
    taken = set(sys.stdlib_module_names) | {name.split(".")[0] for name in importlib.metadata.packages_distributions()}
    for folder in ("serve", "jobs"):
        for path in sources(folder):
            assert path.stem == "__init__" or path.stem not in taken, path


def test_no_test_folder_can_become_a_package_of_ours() -> None:
    for folder in (ROOT / "tests").glob("*/"):  # deeper ones are never on the path
        assert folder.name not in (*PACKAGES, "cluster", "benchmarks"), folder
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_setting_explains_itself() -> None:
    from shoal import settings

    models = (
        settings.BuildSettings,
        settings.RunSettings,
        settings.RerankerSettings,
        settings.TrainSettings,
        settings.EvaluateSettings,
    )
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_contributing_maps_the_tree() -> None:
    """Every path in the map exists, and every module of the application and the core is on it."""
    map_text = re.search(r"<!-- map -->\n```\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert map_text, "CONTRIBUTING.md has no map"
    mapped: set[str] = set()
    folders: list[str] = []
    for line in map_text.group(1).splitlines():
        indent, entry = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        folders[len(indent) // 2 :] = [entry]
        mapped.add("".join(folders))
    missing = {path for path in mapped if not (ROOT / path).exists()}
    assert not missing
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] in (*PACKAGES, "cluster", "benchmarks") and path.stem != "__init__":
            assert path.as_posix() in mapped or f"{path.parent.as_posix()}/" in mapped, f"{path} is not on the map"
