"""The passages of `benchmarks.support.zipf` in tantivy: run by `benchmarks.words` with a Python that has it.

    python -m benchmarks.support.tantivy_words FOLDER PASSAGES TOP_K < QUERIES > ANSWERS

Queries and answers are JSON: a list of texts; of each a list of the passages found, and the milliseconds of processor
time of the fastest of so many rounds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import tantivy

from benchmarks.support.zipf import chunks

HEAP_BYTES = 2**30
"""Memory for what is not on disk yet."""
ROUNDS = 3
"""Times that each query is asked."""


def opened(folder: Path, passages: int) -> Any:
    """Return the index in a folder, which is built there unless it is."""
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    schema.add_unsigned_field("row", stored=True)
    exists = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    index = tantivy.Index(schema.build(), path=str(folder))
    if not exists:
        writer = index.writer(HEAP_BYTES, num_threads=1)
        row = 0
        for chunk in chunks(passages):
            for text in chunk.texts():
                writer.add_document(tantivy.Document(text=text, row=row))
                row += 1
        writer.commit()
        writer.wait_merging_threads()
    index.reload()
    return index


def main(folder: Path, passages: int, top_k: int) -> None:
    """Answer queries."""
    index = opened(folder, passages)
    searcher, answers = index.searcher(), []
    for text in json.load(sys.stdin):
        least = float("inf")
        for _ in range(ROUNDS):
            started = time.thread_time()
            hits = searcher.search(index.parse_query(text, ["text"]), top_k, count=False).hits
            least = min(least, 1000 * (time.thread_time() - started))
        answers.append([[searcher.doc(address)["row"][0] for _, address in hits], least])
    json.dump({"segments": searcher.num_segments, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
