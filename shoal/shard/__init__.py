"""One shard of an index version: its vectors, words, passages and metadata, written once and read in place."""
