"""Rules of the tree that no single module can keep by itself."""

import ast
import importlib
import importlib.metadata
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("shoal", "serve", "jobs")
TOP_LEVEL = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "README.md", "benchmarks", "cluster", "constraints.txt", "docs", "examples", "jobs", "pyproject.toml", "serve",
    "shoal", "tests",
}  # fmt: skip
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 400
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


def modules() -> dict[str, Path]:
    """Our modules by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources(*PACKAGES, "cluster")
    }


def imported_names(node: ast.AST) -> Iterator[str]:
    """What a module or a part of it imports at run time, inside functions too; `from a import b` gives a.b."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imported_names(child)


def import_graph(known: dict[str, Path]) -> dict[str, set[str]]:
    """Which of our modules each of them imports. A package is imported where something of its `__init__` is."""
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        names = {
            name if name in known else name.rpartition(".")[0] for name in imported_names(ast.parse(path.read_bytes()))
        }
        graph[module] = (names & known.keys()) - {module}
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """The nodes of some cycle, in their order; None if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str] | None:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return None
        path.append(node)
        for target in sorted(graph.get(node, ())):
            if cycle := visit(target):
                return cycle
        done.add(path.pop())
        return None

    return next((cycle for node in sorted(graph) if (cycle := visit(node))), None)


def test_no_modules_import_each_other() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    graph = import_graph(modules())
    assert len(graph) > 100
    assert find_cycle(graph) is None


def test_no_packages_of_the_core_import_each_other() -> None:
    packages: dict[str, set[str]] = {}
    for module, targets in import_graph(modules()).items():
        own = ".".join(module.split(".")[:2])
        packages.setdefault(own, set()).update(".".join(target.split(".")[:2]) for target in targets)
    core = {name: targets - {name} for name, targets in packages.items() if name.startswith("shoal.")}
    assert find_cycle(core) is None


def test_only_the_shared_vocabulary_lies_at_the_top_of_the_core() -> None:
    top = {path.stem for path in (ROOT / "shoal").glob("*.py")}
    assert top == {"__init__", "errors", "records", "modes", "namespaces", "filters", "metadata", "fingerprint"}


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


def imported_by(path: Path) -> set[str]:
    """The modules that a file names in its imports, wherever they stand."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_no_test_imports_from_benchmarks() -> None:
    """Logic that deserves a test lies in a package; a benchmark itself is run, by tests/contract/test_benchmarks.py."""
    for path in sources("tests"):
        assert not {name for name in imported_by(path) if name.split(".")[0] == "benchmarks"}, path


def test_benchmarks_share_only_their_support() -> None:
    for path in sources("benchmarks"):
        shared = {name for name in imported_by(path) if name.split(".")[0] == "benchmarks"}
        assert all(name.startswith("benchmarks.support.") for name in shared), path


def test_unit_tests_mirror_the_packages() -> None:
    """tests/unit/search tests shoal/search, tests/unit/serve/web serve/web; on top lie tests of top-level modules."""
    unit = ROOT / "tests" / "unit"
    for path in sources("tests/unit"):
        folder = path.parent.relative_to(unit)
        if folder == Path():
            tested = path.stem.removeprefix("test_")
            of_no_module = tested in ("cluster_files", "conftest", "reference")
            assert of_no_module or (ROOT / "shoal" / f"{tested}.py").exists(), path
            continue
        inside = ROOT if folder.parts[0] in PACKAGES else ROOT / "shoal"
        assert (inside / folder / "__init__.py").exists(), f"{path}: there is no package {folder}"


def test_functions_are_short() -> None:
    long = set()
    for path in sources(*PACKAGES, "cluster", "benchmarks"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES:
                long.add(f"{path.relative_to(ROOT)}:{node.name}")
    assert not long, f"over {MAX_FUNCTION_LINES} lines"


def test_a_long_file_says_why() -> None:
    """Its docstring has a line that begins with `Long because`."""
    long = set()
    for path in sources(*PACKAGES, "cluster", "benchmarks", "tests"):
        text = path.read_text()
        reason = re.search(r"^Long because ", ast.get_docstring(ast.parse(text)) or "", re.MULTILINE)
        if text.count("\n") > MAX_FILE_LINES and not reason:
            long.add(path.relative_to(ROOT).as_posix())
    assert not long, f"over {MAX_FILE_LINES} lines without a reason"


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


def test_every_constant_explains_itself() -> None:
    """A docstring follows each constant of a module. A metric has its help; a type variable needs none."""
    silent = set()
    for path in sources(*PACKAGES, "cluster"):
        body = ast.parse(path.read_bytes()).body
        for node, following in itertools.pairwise([*body, ast.Pass()]):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=value)
                ):
                    maker = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
                    explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    if name.isupper() and not explained and maker not in ("TypeVar", "ParamSpec", "Metric", "Composed"):
                        silent.add(f"{path.relative_to(ROOT)}: {name}")
    assert not silent, "constants without a docstring"


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
