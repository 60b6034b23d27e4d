"""One search on the coordinator: encode, fan out, merge, fuse, fetch, rerank. Free of Ray."""
