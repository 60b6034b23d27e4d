"""Training rerankers on judgements."""
