"""Lines of the pages of a PDF, made into paragraphs.

A PDF knows where letters stand, not what belongs together: a sentence ends in the middle at the end of each line, and
what stands at the head and foot of every page comes between. Here lines that were broken are joined, a word that was
divided is one word again, what runs through all pages is told once, and a sentence that goes over to the next page
stays on the page that it begins on. Lines that stand for themselves, such as headings, items and cells, stay.
"""

import bisect
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

Page = list[str]
"""The lines of a page."""

_EDGE = 2
"""Lines at the head and at the foot of a page that may run through all pages."""
_LEAST_RUNNING = 3
"""Pages that a line stands on before it is taken for one that runs through them."""
_RUNNING_SHARE = 3
"""It stands on one of so many pages, or more, unless a number in it goes with the pages: left and right differ."""
_PLACE = "\0"
"""What stands in a form before the distance of a number to that of its page."""
_PAGE_WORDS = frozenset(
    ("page", "seite", "página", "pagina", "side", "sida", "strana", "strona", "oldal", "sivu", "стр")
)
"""What stands beside the number of a page, alone."""
_LONGEST_LINK = 3
"""Letters of what may stand between two numbers, as in `3 of 12` or `3 von 12`."""
_FULL_SHARE = 0.75
"""A line as long as this share of a usual one has been broken, so that the next may go on with it."""
_LEAST_FULL = 30
"""Characters below which no line has been broken: there are no columns so narrow, but cells, items and slides."""
_LONGEST_CARRIED = 1000
"""Characters of a sentence that are taken back to the page before."""
_CLOSING = "['\"\u2019\u201d\u00bb)\\]]*"
"""What may stand behind the sign that ends a sentence."""
_SENTENCE_END = re.compile(rf"[.!?:;\u2026\u3002\uff01\uff1f]{_CLOSING}$")
"""The end of a sentence, or of a part of one, at the end of a line."""
_INNER_END = re.compile(rf"[.!?\u2026]{_CLOSING}(?=\s+[^\W\da-z_])")
"""The end of a sentence where the line goes on with another one."""
_NUMBER = re.compile(r"\d{1,6}")
"""A number that may be that of a page."""
_WORD = re.compile(r"[^\W\d_]+")
"""Letters only."""
_ITEM = re.compile(
    r"(?:[-\u2013\u2014*+\u2022\u25aa\u25e6\u2023\u00b7]|\(?(?:\d+(?:\.\d+)*|[a-zA-Z]|[ivxIVX]+)[.)]|\d+(?:\.\d+)+)\s"
)
"""How items, and headings with a number, begin."""
_NUMBERED = re.compile(r"\d+\s+[A-ZÄÖÜ]")
"""How a heading with a number begins, where the line before it ends a sentence."""
_LONGEST_WORD = 50
"""Characters at the end of a line that are looked at for it."""
_DIVIDED = re.compile(r"(\w*[^\W\d_])-$")
"""The first part of a word that may go on in the next line."""
_COMPOUND = re.compile(r"\b\w++(?:-\w++)+")
"""A word with a hyphen. It gives nothing back that it has taken, or a long line would take time by its square."""
LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
"""Letters that fonts draw as one; whoever asks writes them one by one."""


def paragraphs(pages: Iterable[str], kept: Iterable[frozenset[str]] = ()) -> list[Page]:
    """Return the lines of each page, joined.

    Args:
        pages: The text of each, as it was read.
        kept: For each page the lines that stand for themselves, as they come out: its headings.
    """
    lines = [[line.rstrip() for line in page.translate(LIGATURES).split("\n")] for page in pages]
    headings = list(kept)
    headings += [frozenset()] * (len(lines) - len(headings))
    lines = _carried(_without_running(lines, headings), headings)
    known = Counter(word for page in lines for line in page for word in _COMPOUND.findall(line))
    usual = _usual_length(itertools.chain.from_iterable(lines))
    return [_joined(page, alone, usual, known) for page, alone in zip(lines, headings, strict=True)]


def _without_running(pages: list[Page], headings: list[frozenset[str]]) -> list[Page]:
    """Leave out what stands at the head or foot of many pages; but for numbers of pages, its first place stays."""
    edges = [
        {place: _forms(page[place], number) for place in _edges(page) if page[place] not in alone}
        for number, (page, alone) in enumerate(zip(pages, headings, strict=True))
    ]
    found = Counter(form for page in edges for form in set().union(*page.values()))
    share = -(-sum(any(map(str.strip, page)) for page in pages) // _RUNNING_SHARE)
    runs = {form for form, count in found.items() if count >= max(_LEAST_RUNNING, 0 if _PLACE in form else share)}
    told: set[str] = set()
    kept = []
    for page, own in zip(pages, edges, strict=True):
        running = {place: forms & runs for place, forms in own.items() if forms & runs}
        left_out = {place for place, forms in running.items() if forms & told or not any(map(_says, forms))}
        told.update(*running.values())
        kept.append([line for place, line in enumerate(page) if place not in left_out])
    return kept


def _edges(page: Page) -> list[int]:
    """Places of the first and the last lines."""
    written = [place for place, line in enumerate(page) if line.strip()]
    return sorted({*written[:_EDGE], *written[-_EDGE:]})


def _forms(line: str, number: int) -> set[str]:
    """What a line may have in common with those of other pages: all of it, or all but its first or last number.

    That number then counts from the place of the page. Beside a single word it may be of anything that is counted, as
    in `Question 3`, unless the word is that for a page.
    """
    folded = " ".join(line.casefold().split())
    numbers = list(_NUMBER.finditer(folded))
    words = _WORD.findall(folded)
    if not numbers or (len(words) == 1 and words[0] not in _PAGE_WORDS):
        return {folded}
    ends = (numbers[0], numbers[-1])
    return {folded, *(f"{folded[: at.start()]}{_PLACE}{int(at[0]) - number}{folded[at.end() :]}" for at in ends)}


def _says(form: str) -> bool:
    """Whether a line that runs through the pages says more than which page it is."""
    return any(len(word) > _LONGEST_LINK and word not in _PAGE_WORDS for word in _WORD.findall(form))


def _carried(pages: list[Page], headings: list[frozenset[str]]) -> list[Page]:
    """Take the rest of a sentence back to the page that it begins on."""
    for before, page, alone in zip(pages, pages[1:], headings[1:], strict=False):
        _trim(before)
        _trim(page)
        if not before or not page or _SENTENCE_END.search(before[-1]) or not page[0].lstrip()[:1].islower():
            continue
        rest: list[str] = []
        for line in page:
            if line in alone or not line.strip():
                break
            inside = _INNER_END.search(line)
            rest.append(line[: inside.end()] if inside else line)
            if inside or _SENTENCE_END.search(line):
                break
        if rest and sum(map(len, rest)) <= _LONGEST_CARRIED:
            before += rest
            remainder = page[len(rest) - 1][len(rest[-1]) :].lstrip()
            page[: len(rest)] = [remainder] if remainder else []
    return pages


def _trim(page: Page) -> None:
    """Leave out blank lines at both ends."""
    while page and not page[-1].strip():
        page.pop()
    while page and not page[0].strip():
        page.pop(0)


def _usual_length(lines: Iterable[str]) -> int:
    """Characters of the lines that half of the text stands in: of those of paragraphs, not of headings and cells."""
    lengths = sorted(map(len, lines))
    reached = list(itertools.accumulate(lengths))
    return lengths[bisect.bisect_left(reached, reached[-1] / 2)] if lengths else 0


def _joined(page: Page, alone: frozenset[str], usual: int, known: Counter[str]) -> Page:
    full = max(_LEAST_FULL, _FULL_SHARE * max(usual, _usual_length(page)))
    joined: list[list[str]] = []
    last = ""  # the line before, as it stood on the page
    for place, line in enumerate(page):
        following = page[place + 1] if place + 1 < len(page) else ""
        if joined and last not in alone and line not in alone and _goes_on(last, line, following, full):
            joined[-1][-1:] = _together(joined[-1][-1], line.lstrip(), known)
        else:
            joined.append([line])
        last = line
    return ["".join(parts) for parts in joined]


def _goes_on(line: str, after: str, following: str, full: float) -> bool:
    """Whether the next line goes on with what a line says. full: characters of a line that has been broken."""
    begin = after.lstrip()
    if not line.strip() or not begin or _ITEM.match(begin):
        return False
    if begin[0].islower():
        return len(line) >= full or not _SENTENCE_END.search(line)
    is_heading = len(begin) < full and len(following) >= full and not _SENTENCE_END.search(begin)
    return len(line) >= full and not is_heading and not (_SENTENCE_END.search(line) and _NUMBERED.match(begin))


def _together(line: str, after: str, known: Counter[str]) -> tuple[str, str]:
    """Join two lines; of a word that was divided the hyphen goes, unless the document writes it so elsewhere."""
    line = line.rstrip()
    if line.endswith("\N{SOFT HYPHEN}"):
        return line[:-1], after
    divided = _DIVIDED.search(line[-_LONGEST_WORD:])
    if divided is None or not after[:1].islower():
        return f"{line} ", after
    rest = re.match(r"\w+", after)
    whole = f"{divided[1]}-{rest[0] if rest else ''}"
    return line if known[whole] else line[:-1], after
