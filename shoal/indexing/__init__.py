"""The offline side: what happens to one unit, one shard, one version; `jobs/` spreads the calls over a cluster.

Every step may be killed and called again: it finds its own commit record, or does its work anew with the same result.
"""
