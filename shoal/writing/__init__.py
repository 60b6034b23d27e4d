"""Writes to an index that is served: what is checked, encoded and appended to the log, whoever holds the shards.

`writer` has the course of a write; `checks` says what may be written, `states` what was there before, `encoding` makes
vectors beside those of queries, `draft` makes an entry of the log.
"""
