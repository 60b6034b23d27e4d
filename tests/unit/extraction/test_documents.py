"""What PDF, Word, PowerPoint and EPUB become, in the process that reads them; and what hostile ones do to it."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mammoth
import pptx
import pypdf
import pytest

from shoal.extraction.child import answer
from shoal.extraction.document_types import DOCUMENT_TYPES, Unreadable, is_readable, packages_for, type_of
from shoal.extraction.worker import Extractor
from tests.support.documents import archive, docx, epub, laughs, lying, pdf

PAGES = ["1. Herring\nHerring swim in shoals.\nA shoal may hold millions.", "# no heading\nCod are solitary.\nEels", ""]


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    made = Extractor()
    yield made
    made.close()


def reason(extractor: Extractor, name: str, data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        extractor.text_of(name, data)
    return str(caught.value)


# --- what documents say ---------------------------------------------------------------------------------------------


def test_pages_of_a_pdf(extractor: Extractor) -> None:
    data = pdf(PAGES)
    pages = extractor.text_of("a.PDF", data).split("\f")
    # The text is what the library itself reads of each page.
    own = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages]
    assert own[0].strip() == PAGES[0]
    assert pages == [own[0].strip(), own[1].strip().replace("# no", "\\# no"), own[2]]


def test_bookmarks_of_a_pdf_are_headings_where_the_page_has_their_words(extractor: Extractor) -> None:
    text = extractor.text_of("a.pdf", pdf(PAGES, [(0, "Herring"), (1, "EELS"), (1, "Absent")]))
    first, second, _ = text.split("\f")
    assert first.strip().split("\n")[0] == "# 1. Herring"
    assert second.strip().split("\n")[-1] == "# Eels"
    assert "Absent" not in text


def test_a_word_document(extractor: Extractor) -> None:
    written = [
        ("Title", "Fish report"),
        ("heading 1", "Cod &amp; ling"),
        ("", "Cod hunt at night."),
        ("heading 2", "Size"),
        ("", "Up to two metres."),
    ]
    data = docx(written)
    text = extractor.text_of("a.docx", data)
    assert text == "# Fish report\n\n## Cod & ling\n\nCod hunt at night.\n\n### Size\n\nUp to two metres."
    words = mammoth.extract_raw_text(io.BytesIO(data)).value.split()
    assert text.replace("#", "").split() == words


def test_a_presentation(extractor: Extractor) -> None:
    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "Herring"
    slide.placeholders[1].text = "They swim\nin shoals"
    table = slide.shapes.add_table(2, 2, 0, 0, 100, 100).table
    for place, words in enumerate(("name", "cm", "cod | ling", "90")):
        table.cell(place // 2, place % 2).text = words
    slide.notes_slide.notes_text_frame.text = "Speak slowly"
    group = made.slides.add_slide(made.slide_layouts[6]).shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "# in a group"
    target = io.BytesIO()
    made.save(target)
    first, second = extractor.text_of("a.pptx", target.getvalue()).split("\f")
    assert first == (
        "# Herring\n\nThey swim\nin shoals\n\n| name | cm |\n| --- | --- |\n| cod \\| ling | 90 |\n\nSpeak slowly"
    )
    assert second == "\\# in a group"


def test_a_book(extractor: Extractor) -> None:
    book = epub(["<h1>One</h1><p>first", "<img src=x>", "<h1>Two</h1><h2>Part</h2>second"])
    assert extractor.text_of("a.epub", book) == ("# A book\n\n## One\n\nfirst\n\n## Two\n\n### Part\n\nsecond")


def test_a_page_of_html(extractor: Extractor) -> None:
    assert extractor.text_of("a.HTM", b"<h1>A</h1>words") == "# A\n\nwords"


# --- what cannot be read --------------------------------------------------------------------------------------------


def test_what_is_damaged_is_told_by_its_reason(extractor: Extractor) -> None:
    assert "holds no text; a scan has to go through text recognition" in reason(extractor, "a.pdf", pdf(["", ""]))
    for name in ("a.docx", "a.pptx", "a.epub"):
        assert "is damaged, or encrypted, or none of its type" in reason(extractor, name, b"nothing of that type")
        assert reason(extractor, name, archive({"x": "y"}))
    assert "cannot be read" in reason(extractor, "a.pdf", b"%PDF-1.7 and nothing more")
    assert "lacks a part that it names" in reason(extractor, "a.epub", archive({"mimetype": "x"}))
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(PAGES)))
    writer.encrypt("secret", algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    assert reason(extractor, "a.pdf", target.getvalue()) == "is encrypted; remove its password"


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mammoth", None)
    assert answer("docx_text", docx([("", "words")])) == (
        b"r",
        "needs the module mammoth: pip install 'shoal[documents]'",
    )


def test_types_are_told_by_their_endings() -> None:
    assert type_of("A/B.Pdf") == DOCUMENT_TYPES[".pdf"]
    assert type_of("a.md") is type_of("pdf") is type_of("a.pdf.txt") is None
    assert all(is_readable(kind) for kind in DOCUMENT_TYPES.values())
    assert packages_for(["a.pdf", "b.html", "c.pdf", "d.pptx"]) == {
        "pypdf": pypdf.__version__,
        "pptx": pptx.__version__,
    }


# --- hostile documents ----------------------------------------------------------------------------------------------


def test_an_archive_that_unfolds_into_too_much_is_not_unfolded(extractor: Extractor) -> None:
    bomb = lying(archive({"word/document.xml": bytes(2**20)}), 513 * 2**20)
    for name in ("a.docx", "a.pptx", "a.epub"):
        assert "unfolds into 537,919,488 bytes, more than 536,870,912" in reason(extractor, name, bomb)


def test_entities_do_not_unfold_and_read_no_files(extractor: Extractor) -> None:
    assert "cannot be read" in reason(extractor, "a.docx", docx([("", "&z;")], laughs()))
    assert reason(extractor, "a.epub", epub(["words"], declarations=laughs())) == "declares entities"
    outside = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY z SYSTEM "file:///etc/passwd">]>'
    read = answer("docx_text", docx([("", "words &z;")], outside))
    assert b"root:" not in read[1].encode()
    assert read[0] == b"t" or "cannot be read" in read[1]


def test_a_stream_that_unfolds_into_too_much_is_bounded(extractor: Extractor) -> None:
    assert reason(extractor, "a.pdf", pdf(["x"], stream=bytes(100 * 2**20)))
    assert extractor.text_of("a.pdf", pdf(PAGES))  # and the next document is read


def test_what_takes_too_long_is_ended_and_the_next_document_is_read() -> None:
    extractor = Extractor(seconds=1)
    endless = pdf(["x"], stream=b"BT /F1 12 Tf " + b"(a) Tj 1 0 0 1 0 0 Tm " * 200_000 + b"ET")
    try:
        assert reason(extractor, "a.pdf", endless) == "takes more than 1 seconds of computing to be read"
        assert extractor.text_of("a.html", b"<p>words") == "words"
    finally:
        extractor.close()


def test_modules_in_the_working_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the folder of the documents, and a file in it may be called as a module is."""
    (tmp_path / "struct.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.chdir(tmp_path)
    extractor = Extractor()
    try:
        assert extractor.text_of("a.html", b"<p>words") == "words"
    finally:
        extractor.close()
    assert not (tmp_path / "imported").exists()


def test_a_page_that_unfolds_into_too_much_text_is_not_returned(extractor: Extractor) -> None:
    """Each item is as far to the right as its list is deep: text grows with the square of the page."""
    assert reason(extractor, "a.html", b"<ul><li>a" * 9_000) == "holds more than 67,108,864 characters; split it"


def test_a_process_that_cannot_start_is_no_fault_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="does not start \\(it ended with 1\\)"):
        Extractor().text_of("a.html", b"<p>words")


def test_a_lower_limit_of_memory_stays() -> None:
    """Beyond which a process cannot raise its own."""
    program = """
import resource
from shoal.extraction.child import allow_memory
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
allow_memory(2**34)
print(resource.getrlimit(resource.RLIMIT_AS) == (2**33, 2**33))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


ACTIONS = [
    "socket.create_connection(('127.0.0.1', 9))",
    "socket.getaddrinfo('localhost', 80)",
    "urllib.request.urlopen('http://127.0.0.1:9/')",
    "subprocess.run(['true'])",
    "os.system('true')",
    "os.fork()",
    "open('/tmp/shoal-never', 'w')",
    "os.open('/tmp/shoal-never', os.O_WRONLY | os.O_CREAT)",
    "os.open('/dev/null', os.O_RDWR)",
    "os.truncate('/tmp/shoal-never', 0)",
    "tempfile.mkdtemp()",
    "os.remove('/tmp/shoal-never')",
]


def test_the_process_opens_no_connection_starts_no_program_and_writes_no_file() -> None:
    program = f"""
import os, socket, subprocess, tempfile, urllib.request
from shoal.extraction.child import Forbidden, forbid
forbid()
for action in {ACTIONS!r}:
    try:
        eval(action)
    except Forbidden:
        print(action)
open('/dev/null').read()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ACTIONS
