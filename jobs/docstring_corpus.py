"""Make a corpus of real passages from the docstrings of installed Python packages: `python -m jobs.docstring_corpus`.

The demo's default input. Source files are parsed, never imported, so nothing in them runs.
"""

import ast
import inspect
import itertools
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.errors import guard
from shoal.errors import InvalidArgument

PACKAGES = ("stdlib", "numpy", "pandas", "scipy", "sklearn", "pyarrow", "torch", "httpx", "rich", "fastapi", "pydantic")
"""What a Python programmer might ask about, out of what Shoal's own dependencies bring anyway."""
SKIPPED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "vendor",
    "_vendor",
    "site-packages",
    "idlelib",
    "distutils",
    "_dynamo",
    "v1",
}
"""Folders of a package that hold nothing for its users."""
SECTIONS = (
    "Parameters",
    "Args:",
    "Arguments:",
    "Attributes",
    "Returns",
    "Yields",
    "Example",
    "See Also",
    "Notes",
    "References",
    ">>>",
)
"""What ends the prose of a docstring in the usual styles."""
SHORTEST = 100
"""Characters of a passage, at least: shorter docstrings say too little."""
LONGEST = 600
"""Characters of a passage: shorter docstrings say too little, and longer ones are cut after a paragraph."""


def main(
    output: Annotated[Path, typer.Option(help="JSONL file to write; left untouched if its content would not change.")],
    limit: Annotated[int, typer.Option(min=1, help="Passages to take, spread evenly over the packages.")] = 3000,
) -> None:
    """Write passages {id, title, text, package, kind} made from docstrings."""
    with guard():
        lines = [json.dumps(passage, ensure_ascii=False) + "\n" for passage in spread(limit)]
        content = "".join(lines).encode("utf-8", "replace")
        # An unchanged file keeps its identity, so that a second demo finds its index already built.
        try:
            if not output.exists() or output.read_bytes() != content:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_bytes(content)
        except OSError as error:
            raise InvalidArgument(f"cannot write {output} ({error.strerror}); correct --output") from None
        print(f"{len(lines)} passages in {output}")  # noqa: T201


def spread(limit: int) -> list[dict[str, Any]]:
    """Take passages from every package in turn until there are `limit`, or no more."""
    streams = [passages_of(package) for package in PACKAGES]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*streams))
    return list(itertools.islice((passage for passage in turns if passage is not None), limit))


def passages_of(package: str) -> Iterator[dict[str, Any]]:
    """Yield the passages of one installed package; none if it is not installed.

    Modules come in the order of a hash of their names: a sample of the whole package, the same on every run.
    """
    paths = sysconfig.get_paths()
    root = Path(paths["stdlib"]) if package == "stdlib" else Path(paths["purelib"]) / package
    files = [path for path in root.rglob("*.py") if not _skipped(path.relative_to(root))]
    seen: set[str] = set()
    for path in sorted(files, key=lambda path: _scattered(path.relative_to(root))):
        module = ".".join(path.relative_to(root.parent if package != "stdlib" else root).with_suffix("").parts)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # some packages ship templates and files for other Python versions
        for name, kind, text in _docstrings(tree, module.removesuffix(".__init__")):
            passage = _cut(text)
            if len(passage) >= SHORTEST and seen.isdisjoint((name, passage)):  # a property and its setter share a name
                seen.update((name, passage))
                title = ".".join(name.split(".")[-2:])
                yield {"id": name, "title": title, "text": passage, "package": package, "kind": kind}


def _scattered(path: Path) -> int:
    # A fixed mixing of the characters; builtin hash() differs from process to process.
    value = 0
    for character in path.as_posix():
        value = (value * 1_000_003 + ord(character)) & 0xFFFFFFFF
    return value


def _skipped(path: Path) -> bool:
    return not SKIPPED_FOLDERS.isdisjoint(path.parts) or path.name.startswith("test_")


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str, str]]:
    """Yield (qualified name, kind, docstring) of the public classes, functions and methods of a module."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        yield f"{module}.{node.name}", kind, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_"):
                    yield f"{module}.{node.name}.{method.name}", "method", ast.get_docstring(method) or ""


def _cut(docstring: str) -> str:
    """Keep whole paragraphs of prose up to LONGEST characters; a first paragraph that is longer ends at a word."""
    kept = ""
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        joined = " ".join(paragraph.split())
        if joined.startswith(SECTIONS) or (kept and len(kept) + len(joined) > LONGEST):
            break
        kept = f"{kept} {joined}".strip()
    return kept if len(kept) <= LONGEST else kept[:LONGEST].rsplit(" ", 1)[0]


if __name__ == "__main__":
    typer.run(main)
