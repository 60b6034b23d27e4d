"""Finding passages by their words: BM25 over every shard, with the statistics of the whole corpus.

    score(q, p) = sum over terms t of q of  idf(t) * tf(t, p) / (tf(t, p) + k1 * (1 - b + b * length(p) / mean length))
    idf(t) = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))

This is BM25 (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond") in the variant that
Lucene computes, without rounding of lengths (Kamphuis et al. 2020, "Which BM25 Do You Mean?"); a term that a query
repeats counts as often. N, df and the mean length are those of the corpus, so that a passage has the same score in
whichever shard it lies. As in bm25s (Lu 2024, "BM25S: Orders of magnitude faster lexical search via eager sparse
scoring"), every term of every passage is scored when the index is built, and a search only adds these numbers up.

A build passes over the passages twice: `statistics` counts terms shard by shard and over the corpus, `writer` scores
them. `index` searches; `analyzer` says what a term is, for passages and queries alike.
"""
