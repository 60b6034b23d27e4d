"""What the lexical indexes of all shards share: the terms of the corpus, counted before any shard is indexed."""

from pathlib import Path

from shoal.index_root import layout
from shoal.index_root.manifest import LexicalInfo
from shoal.index_root.storage import Storage
from shoal.indexing.plan import Plan
from shoal.lexical.analyzer import NAME
from shoal.lexical.statistics import Totals, look_up, merge_terms, read_terms, read_totals
from shoal.lexical.writer import LexicalWriter
from shoal.settings import LexicalSettings


def merge_shards(plan: Plan, storage: Storage) -> None:
    """Sum up the terms of all shards, once."""
    target = layout.corpus_terms(plan.hash)
    if storage.exists(target):
        return
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        paths = (layout.shard_terms(plan.hash, shard) for shard in range(plan.shards))
        merge_terms(storage, paths, folder / "corpus.arrow")
        storage.put(folder / "corpus.arrow", target)


def open_writer(plan: Plan, shard: int, storage: Storage, folder: Path) -> LexicalWriter:
    """Open the writer of a shard, with the numbers of the corpus. folder: where the files of the shard are written."""
    _, terms, own = read_terms(storage, layout.shard_terms(plan.hash, shard))
    totals, corpus = look_up(storage, layout.corpus_terms(plan.hash), terms)
    return LexicalWriter(folder, terms, own, corpus, totals, plan.lexical)


def describe_lexical(plan: Plan, storage: Storage) -> LexicalInfo | None:
    """Describe the lexical index for the manifest; None when the build makes none."""
    if not plan.lexical.lexical:
        return None
    return make_info(plan.lexical, read_totals(storage, layout.corpus_terms(plan.hash)))


def make_info(settings: LexicalSettings, totals: Totals) -> LexicalInfo:
    """Describe a lexical index by its settings and the totals of the corpus."""
    return LexicalInfo(
        analyzer=NAME,
        language=settings.lexical_language,
        stopwords=settings.lexical_stopwords,
        k1=settings.lexical_k1,
        b=settings.lexical_b,
        passages=totals.passages,
        mean_length=totals.mean_length,
    )
