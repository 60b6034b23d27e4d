"""Retrieval by the terms that a learned sparse model gives texts, as SPLADE does.

    score(q, p) = sum over terms t of weight of t in q * weight of t in p

(Formal, Piwowarski & Clinchant 2021, "SPLADE: Sparse Lexical and Expansion Model for First Stage Ranking".) A weight
depends on its text and the model alone, so that scores of several shards can be compared as they are. The weights of
passages are rounded to float16 once, when they are encoded; those of queries are not.
"""
