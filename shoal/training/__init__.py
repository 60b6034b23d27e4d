"""Training rerankers, and blends of their scores, on judgements."""
