"""Records in the shape of a reference article's corpus: papers cut into chunks, one record a chunk."""

from typing import Any


def chunks(papers: int, chunks_of_each: int) -> list[dict[str, Any]]:
    """Return one record a chunk; `id` is that of the paper, and `chunk-id` counts within it."""
    return [_chunk(paper, number) for paper in range(papers) for number in range(chunks_of_each)]


def _chunk(paper: int, number: int) -> dict[str, Any]:
    arxiv = f"2307.{paper:05d}"
    return {
        "doi": arxiv,
        "chunk-id": str(number),
        "chunk": f"Passage {number} of paper {paper} tells how topic {paper * 7 + number} was measured. " * 6,
        "id": arxiv,
        "title": f"On topic {paper}",
        "summary": f"We study topic {paper} and find that it can be measured. " * 3,
        "source": f"http://arxiv.org/pdf/{arxiv}",
        "authors": [f"Author {paper}", "A. N. Other"],
        "categories": ["cs.CL", "cs.IR"],
        "comment": None if paper % 2 else "12 pages",
        "journal_ref": None,
        "primary_category": "cs.CL",
        "published": f"202307{paper % 28 + 1:02d}",
        "updated": "20230801",
        "references": [{"id": f"1706.{paper:05d}"}, {"id": "1810.04805"}],
    }
