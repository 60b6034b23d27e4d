"""README.md and docs/ name only what there is: commands, options, variables, routes, metrics, files and headings."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

from serve.telemetry import METRICS
from tests.support.dashboard import SERVE_METRICS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]
FOREIGN = r"(?:docker|helm|kubectl|npx|pip|ray|serve|systemctl|curl|git) "
"""Beginnings of the commands of others, whose options are theirs."""


def text_of(page: Path) -> str:
    return page.read_text("utf-8").replace("\\\n", " ")


def ours(text: str) -> str:
    """The text without the commands of others."""
    text = re.sub(rf"`{FOREIGN}[^`\n]*`", "", text)
    text = re.sub(r"(?m)^ *ray job submit .* -- +", "", text)
    return re.sub(rf"(?m)^ *(?:.*&& )?{FOREIGN}.*$", "", text)


@cache
def options_of(command: str) -> frozenset[str]:
    """The options of a command of ours, such as `shoal index list` or `python -m benchmarks.scale`."""
    import typer

    words = command.split()
    if words[0] == "shoal":
        from shoal.cli.main import COMMANDS

        assert words[1] in COMMANDS, command
        found = typer.main.get_command(importlib.import_module(f"shoal.cli.{words[1]}").app)
        if hasattr(found, "commands"):
            commands = [found.commands[words[2]]] if len(words) > 2 else list(found.commands.values())
        else:
            commands = [found]
    elif words[-1].startswith(("jobs.", "serve.")):
        commands = [typer.main.get_command(importlib.import_module(words[-1]).app)]
    else:
        file = words[1] if len(words) == 2 else words[-1].replace(".", "/") + ".py"
        support = sorted((ROOT / "benchmarks" / "support").glob("*.py")) if "benchmarks" in command else []
        declared = "".join(path.read_text("utf-8") for path in [ROOT / file, *support])
        return frozenset(re.findall(r"\"(--[a-z][a-z0-9-]*)\"", declared))
    parameters = [parameter for found in commands for parameter in found.params]
    return frozenset(name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts))


@cache
def all_options() -> frozenset[str]:
    from shoal.cli.main import COMMANDS

    names = [f"shoal {name}" for name in COMMANDS]
    jobs = ("build_index", "evaluate", "train_reranker", "train_blend")
    names += [f"python -m jobs.{name}" for name in jobs]
    names += [f"python -m benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")]
    names += ["python -m serve.run", "python -m cluster.gpu_check", "python cluster/local.py"]
    return frozenset().union(*map(options_of, names))


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert {page.name for page in DOCS} - {"README.md"} <= set(re.findall(r"\]\(([a-z-]+\.md)\)", index))


def test_make_has_the_targets_that_are_named() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?m)(?:`|^)make ([a-z]+)", page.read_text("utf-8"))) <= targets, page


def test_modules_that_are_run_exist() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m ((?:jobs|serve|benchmarks|cluster)\.[a-z_]+)", text_of(page)):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), (page, module)


def test_commands_have_the_options_that_they_are_given() -> None:
    command = (
        r"shoal (?:index [a-z]+|[a-z]+)|python -m (?:jobs|serve|benchmarks|cluster)\.[a-z_]+|python cluster/local\.py"
    )
    named = set()
    for page in PAGES:
        found = re.findall(rf"(?m)(?:^ *|`|&& |=\S+ |-- +|\$\()({command})( [^`#\n)]*)?", text_of(page))
        for name, rest in found:
            named.add(name)
            assert set(re.findall(r"--[a-z][a-z0-9-]+", rest)) <= options_of(name), (page.name, name, rest)
    assert len(named) >= 20


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_options_that_are_named_exist(page: Path) -> None:
    known = all_options() | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours(text_of(page)))) <= known


def test_options_in_tables_are_those_of_a_build_or_a_server() -> None:
    named: set[str] = set()
    for page in (ROOT / "docs" / name for name in ("input.md", "indexes.md", "models.md", "operations.md")):
        rows = re.findall(r"(?m)^\|.*$", text_of(page))
        named |= {flag for row in rows for flag in re.findall(r"`(--[a-z][a-z0-9-]+)", row)}
    assert len(named) >= 8
    assert named <= options_of("shoal build") | options_of("shoal serve")


def test_variables_that_are_named_exist() -> None:
    from shoal import settings

    models = [model for _, model in inspect.getmembers(settings, inspect.isclass)]
    known = {
        f"SHOAL_{field.upper()}"
        for model in models
        if issubclass(model, settings.Settings)
        for field in model.model_fields
    }
    read = set()
    for folder in ("shoal", "serve", "jobs", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != Path(__file__):
                read |= set(re.findall(r"\bSHOAL_[A-Z_]+\b", path.read_text("utf-8")))
    for page in PAGES:
        assert set(re.findall(r"\bSHOAL_[A-Z_]+\b", page.read_text("utf-8"))) <= known | read, page


def test_routes_that_are_named_exist() -> None:
    from serve.web.api import create_api
    from shoal.settings import ServeSettings

    def no_engine() -> None:
        raise AssertionError("nothing is asked")

    paths = {*create_api(no_engine, ServeSettings(index="ROOT")).openapi()["paths"], "/docs", "/openapi.json"}  # type: ignore[arg-type]
    named: set[str] = set()
    for page in [README, *DOCS]:
        named |= set(
            re.findall(
                r"(?:localhost:\d+|`(?:GET |POST )?)(/(?:v1/|healthz|readyz|docs|openapi)[\w./]*)", page.read_text()
            )
        )
    assert len(named) >= 6
    of_index = {re.sub(r"^/v1/indexes/\w+", "/v1/indexes/{index}", path) for path in named}
    assert {path for path in of_index if not path.endswith("...")} <= paths  # dots stand for all that is below


def test_metrics_that_are_named_exist() -> None:
    known = {metric.exported for metric in METRICS} | set(SERVE_METRICS)
    for page in PAGES:
        assert set(re.findall(r"`(ray_(?:shoal|serve)_\w+)`", page.read_text("utf-8"))) <= known, page


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text("utf-8"))
    headings = re.findall(r"(?m)^#+ +(.+?) *$", prose)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_to_files_and_headings(page: Path) -> None:
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_examples_in_python_are_valid_and_use_options_that_there_are() -> None:
    from shoal.client import clients

    blocks = [
        block for page in [README, *DOCS] for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text())
    ]
    assert len(blocks) >= 6
    options = clients.SearchOptions.__annotations__
    for block in blocks:
        tree = compile(block, "documentation", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "search":
                assert {keyword.arg for keyword in node.keywords} <= options.keys(), block
