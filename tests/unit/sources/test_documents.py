"""A folder of documents as people have them: one source, whatever the types."""

from pathlib import Path

import pytest

from shoal.errors import InvalidArgument
from shoal.indexing.plan import make_plan
from shoal.records import Passage
from shoal.settings import BuildSettings
from shoal.sources import listing
from shoal.sources.listing import find_input
from tests.support.documents import docx, epub, lying, pdf
from tests.support.reading import ENCODER
from tests.support.source_records import Read

DOCUMENTS = {
    "a.md": b"# Fish\n\n## Cod\n\nCod hunt at night.\n",
    "b.rst": b"Fish\n====\n\nHerring swim in shoals.\n",
    "c.html": b"<title>Fish</title><nav>Home</nav><p>Eels migrate.",
    "d.txt": b"Plain words.\n",
    "e.pdf": pdf(["Rays rest.", "Sharks swim."], [(1, "Sharks swim.")]),
    "f.docx": docx([("Title", "Fish"), ("", "Ling are long.")]),
    "g.epub": epub(["<h1>Carp</h1><p>Carp are patient."], title="Fish"),
}


def write(folder: Path, **more: bytes) -> None:
    for name, data in {**DOCUMENTS, **more}.items():
        (folder / name).write_bytes(data)


def test_a_folder_of_all_types_is_one_source(folder: Path, read: Read) -> None:
    write(folder)
    (folder / "picture.png").write_bytes(b"")
    found = read(folder)
    assert found.plan.left_out == {".png": 1}
    assert found.passages == [
        Passage("a.md#1", "# Fish\n\n## Cod\n\nCod hunt at night.", "Fish > Cod", {"_line": 1, "path": "a.md"}),
        Passage("b.rst#1", "Fish\n====\n\nHerring swim in shoals.", "Fish", {"_line": 1, "path": "b.rst"}),
        Passage("c.html#1", "# Fish\n\nEels migrate.", "Fish", {"path": "c.html"}),
        Passage("d.txt#1", "Plain words.", None, {"_line": 1, "path": "d.txt"}),
        Passage("e.pdf#1", "Rays rest.", None, {"_page": 1, "path": "e.pdf"}),
        Passage("e.pdf#2", "# Sharks swim.", "Sharks swim.", {"_page": 2, "path": "e.pdf"}),
        Passage("f.docx#1", "# Fish\n\nLing are long.", "Fish", {"path": "f.docx"}),
        Passage("g.epub#1", "# Fish\n\n## Carp\n\nCarp are patient.", "Fish > Carp", {"path": "g.epub"}),
    ]


def test_a_document_that_cannot_be_read_is_rejected_by_its_name(folder: Path, read: Read) -> None:
    write(
        folder,
        **{
            "h.pdf": b"no PDF",
            "i.docx": lying(DOCUMENTS["f.docx"], 2**30),
            "j.html": b"\xff",
            "k.md": b"",
            "l.pdf": b"",
            "m.txt": b"caf\xe9",
        },
    )
    found = read(folder)
    reasons = {place["file"]: content for place, content in found.items if isinstance(content, str)}
    assert list(reasons) == ["h.pdf", "i.docx", "j.html", "k.md", "l.pdf", "m.txt"]
    assert reasons["k.md"] == reasons["l.pdf"] == "the file is empty"
    assert reasons["m.txt"].startswith("the file is not valid UTF-8 (byte 4); save it as UTF-8")
    assert reasons["h.pdf"].startswith("the file cannot be read (")
    assert reasons["i.docx"].startswith("the file unfolds into 1,07")
    assert reasons["j.html"] == "the file is not valid UTF-8 (byte 1) and names no other encoding"
    assert len(found.passages) == 8


def test_documents_beside_data_say_nothing_of_the_format(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b'{"id": "1", "text": "x"}\n')
    (folder / "index.html").write_bytes(b"<p>x")
    found = find_input(str(folder), "auto", "root")
    assert (found.format, found.left_out) == ("jsonl", {".html": 1})
    assert [file.name for file in find_input(str(folder), "text", "root").files] == ["index.html"]
    (folder / "a.md").write_bytes(b"x")
    with pytest.raises(InvalidArgument, match="several formats"):
        find_input(str(folder), "auto", "root")


def test_documents_whose_parsers_are_missing_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "is_readable", lambda kind: kind.package is None)
    write(folder)
    plan = make_plan(BuildSettings(source=str(folder), index="root"), ENCODER)
    assert [file.name for file in plan.files] == ["a.md", "b.rst", "c.html", "d.txt", "g.epub"]
    assert plan.remarks == [
        "2 files of other types: 1 .docx, 1 .pdf would be read with their parsers: pip install 'shoal[documents]'"
    ]
    for source in (folder / "e.pdf", folder / "*.docx"):
        with pytest.raises(InvalidArgument, match=r"parsers are not installed: pip install 'shoal\[documents\]'"):
            find_input(str(source), "auto", "root")


def test_another_parser_builds_anew(folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder)
    now = read(folder).plan.hash
    monkeypatch.setattr("shoal.sources.documents.packages_for", lambda names: {"pypdf": "1"})
    assert read(folder).plan.hash != now


def test_the_place_of_a_passage_is_no_field_of_the_user(folder: Path, read: Read) -> None:
    (folder / "_line=x" / "_page=y").mkdir(parents=True)
    for name in ("a.md", "e.pdf"):
        (folder / "_line=x" / "_page=y" / name).write_bytes(DOCUMENTS[name])
    metadata = [passage.metadata for passage in read(folder).passages]
    assert {(fields["_line"], fields["_page"]) for fields in metadata} == {("x", "y")}
    (folder / "b.md").write_bytes(b"words")
    assert [passage.metadata for passage in read(folder / "b.md", metadata_fields=["path"]).passages] == [
        {"path": "b.md"}
    ]
    assert [passage.metadata for passage in read(folder / "b.md", metadata_fields=["_line"]).passages] == [{"_line": 1}]
    with pytest.raises(InvalidArgument, match="metadata_types makes _line a string; that of a document is an integer"):
        read(folder / "b.md", metadata_types=["_line:string"])


def test_documents_are_cut_by_length_as_they_were(folder: Path, read: Read) -> None:
    text = "# One\n\nSome words are here.\n\n# Two\n\nOther words are there."
    (folder / "a.md").write_text(text)
    cut = read(folder, chunk_characters=50, cut_by="length")
    assert [(passage.title, passage.metadata) for passage in cut.passages] == [(None, {"path": "a.md"})] * 2
    (folder / "a.jsonl").write_bytes(b'{"id": "1", "text": "x"}\n')
    with pytest.raises(InvalidArgument, match="cut_by is for documents; the input is jsonl"):
        read(folder / "a.jsonl", cut_by="structure")


# --- ids that stay --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.md", "a.txt"])
def test_ids_of_content_stay_when_text_before_them_changes(name: str, folder: Path, read: Read) -> None:
    sections = [f"# Part {number}\n\n" + f"Words of part {number}, and more of them. " * 8 for number in range(30)]
    options = {"chunk_characters": 400, "piece_ids": "content"}
    (folder / name).write_text("\n\n".join(sections))
    before = read(folder, **options).passages
    (folder / name).write_text("\n\n".join(["# New\n\nInserted words.", *sections]))
    after = read(folder, **options).passages
    kept = {passage.id for passage in before} & {passage.id for passage in after}
    assert len(kept) >= len(before) - 3
    contents = {passage.id: passage.content for passage in before}
    assert all(contents[passage.id] == passage.content for passage in after if passage.id in kept)
    assert all(passage.id.startswith(f"{name}#") for passage in after)


def test_equal_pieces_of_a_document_have_ids_of_their_own(folder: Path, read: Read) -> None:
    (folder / "a.txt").write_text("\n\n".join(["The same words again and again, up to here."] * 3 + ["Other words."]))
    options = {"chunk_characters": 50, "piece_ids": "content"}
    ids = [passage.id.partition("#")[2] for passage in read(folder, **options).passages]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3", ids[3]]
    assert ids[3].partition("-")[0] != ids[0]
    (folder / "b.jsonl").write_bytes(b'{"id": "1", "text": "x"}\n')
    with pytest.raises(InvalidArgument, match="piece_ids needs chunk_characters"):
        read(folder / "b.jsonl", piece_ids="content")
