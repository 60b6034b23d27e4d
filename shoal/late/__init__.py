"""Late interaction over token vectors that lie in the shards: a second stage without a transformer over passages.

The score is that of `shoal.rerankers.late_interaction`. The token vectors of the passages, which the encoder has at
hand when it embeds them, are reduced by principal components (`codec`), kept beside the shard's passages (`writer`),
and compared by the retriever with those of the query where they lie (`index`). The reduction is trained once, on a
sample of the corpus, and shared by all shards, so that a passage has the same score in whichever shard it lies.
"""
