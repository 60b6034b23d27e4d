"""`shoal upsert`: writes passages to an index that is served, or to one in this process."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli.errors import REFUSED, guard
from shoal.cli.options import AsJson
from shoal.cli.output import print_json, print_lines
from shoal.cli.server import DEFAULT_URL, Namespace, Url, WrittenIndex, unit_of_writes, writing
from shoal.client.answers import IndexDescription
from shoal.client.writes import BATCH_PASSAGES
from shoal.errors import InvalidArgument
from shoal.settings import SourceSettings
from shoal.system.terminal import printable, say

if TYPE_CHECKING:
    from shoal.sources.passages import BadInput

STDIN = "-"
"""What stands for standard input."""
_SUFFIXES = {"auto": ".jsonl", "beir": ".jsonl", "text": ".txt"}
"""How a file is called that standard input is kept in, by its format, where not by the format itself."""

WHOLE = (
    "each document is written as one passage: this index does not cut texts. `shoal index create --documents` makes "
    "one that does, as a build of documents does"
)
"""What is said of documents that are written to an index of whole texts."""

app = typer.Typer()


def _option(field: str, metavar: str, name: str | None = None) -> Any:
    """An option of the command that is one of a build."""
    description = SourceSettings.model_fields[field].description
    return typer.Option(name or f"--{field.replace('_', '-')}", metavar=metavar, help=description)


@app.command()
def upsert(  # noqa: PLR0913 - one parameter for each option
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Input as of a build: a file, a folder, a glob or a URI; - for stdin.")
    ],
    url: Url = DEFAULT_URL,
    index: WrittenIndex = None,
    namespace: Namespace = None,
    format: Annotated[str, _option("format", "FORMAT")] = "auto",
    id_field: Annotated[str | None, _option("id_field", "FIELD")] = None,
    text_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Field of the text. Default: that of the index.")
    ] = None,
    title_field: Annotated[str | None, _option("title_field", "FIELD")] = None,
    vectors_field: Annotated[str | None, _option("vectors_field", "FIELD")] = None,
    metadata_fields: Annotated[str | None, _option("metadata_fields", "FIELDS")] = None,
    columns: Annotated[str | None, _option("columns", "NAMES")] = None,
    relative_to: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the build, which ids of documents are relative to, where FILE lies below it. Default: FILE "
            "itself, or the folder that it lies in.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="INT", min=1, help="Passages of one request.")] = BATCH_PASSAGES,
    as_json: AsJson = False,
) -> None:
    """Write passages to an index: each in the place of the one with its id, at once and durably.

    Reads what `shoal build` reads. Records that give no passage are named, and the rest is written; exit code 3 then.
    """
    with guard(as_json), _as_file(source, format) as path:
        settings = {
            "source": path,
            "format": format,
            "id_field": id_field,
            "title_field": title_field,
            "vectors_field": vectors_field,
            "metadata_fields": _listed(metadata_fields),
            "columns": _listed(columns),
        }
        course = _Course(as_json)
        with writing(url, index) as target:
            described = target.describe()
            course.unit = unit_of_writes(described)
            settings["text_field"] = text_field or described.text_field
            passages = course.passages(settings, described, relative_to)
            summary = target.upsert(passages, namespace=namespace or "", batch_passages=batch, progress=course.progress)
        course.end()
        counts = {"position": summary.position, "written": summary.written, "unchanged": summary.unchanged}
        if as_json:
            print_json({**counts, "rejected": course.rejected})
        else:
            print_lines(
                f"{summary.written:,} {course.unit} written, {summary.unchanged:,} unchanged, {course.rejected:,} "
                f"rejected; position {summary.position}"
            )
        if course.rejected:
            raise SystemExit(REFUSED)


class _Course:
    """What a run has read and written so far, told on stderr."""

    def __init__(self, as_json: bool) -> None:
        self.rejected = 0
        self.unit = "passages"
        """What is counted: records, where the index cuts texts into passages."""
        self._shows = sys.stderr.isatty() and not as_json
        self._shown = False

    def passages(
        self, settings: dict[str, Any], index: IndexDescription, relative_to: str | None
    ) -> Iterator[dict[str, Any]]:
        """Read the input, and name what gives no passage."""
        from shoal.sources.passages import BadInput, find_source, read_source

        # What the index cuts into passages may be longer than one; how long, only it can say.
        is_cut = index.chunk_characters is not None
        found = find_source(_validated(settings), relative_to)
        if found.is_documents and not is_cut:
            say(WHOLE)
        for item in read_source(found, index.dim, limit_text=not is_cut):
            if isinstance(item, BadInput):
                self._reject(item)
            else:
                # Blank lines stand where the front matter of a document was, for whoever counts lines.
                text = item.text.lstrip("\n") if found.is_documents and not is_cut else item.text
                fields: dict[str, Any] = {"id": item.id, "text": text, "metadata": dict(item.metadata)}
                if item.title is not None:
                    fields["title"] = item.title
                if item.vector is not None:
                    fields["vector"] = item.vector
                yield fields

    def progress(self, done: int) -> None:
        """Show how much is done."""
        if self._shows:
            self._shown = True
            sys.stderr.write(f"\r{done:,} {self.unit}")
            sys.stderr.flush()

    def end(self) -> None:
        """End the line that shows the progress."""
        if self._shown:
            sys.stderr.write("\n")
            self._shown = False

    def _reject(self, bad: "BadInput") -> None:
        self.end()
        self.rejected += bad.records
        say(printable(f"{bad.place}: {bad.reason}"))


def _validated(settings: dict[str, Any]) -> SourceSettings:
    from pydantic import ValidationError

    try:
        return SourceSettings.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        option = f"--{'.'.join(map(str, problem['loc'])).replace('_', '-')}"
        raise InvalidArgument(f"{option}: {problem['msg']}", param=option) from None


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


@contextlib.contextmanager
def _as_file(source: str, source_format: str) -> Iterator[str]:
    """Give the path of the input; standard input is kept in a file, of the name that its format has."""
    if source != STDIN:
        yield source
        return
    suffix = _SUFFIXES.get(source_format, f".{source_format}")
    with tempfile.TemporaryDirectory(prefix="shoal-upsert-") as folder:
        path = Path(folder) / f"stdin{suffix}"
        with path.open("wb") as file:
            while block := os.read(sys.stdin.fileno(), 2**20):
                file.write(block)
        yield str(path)
