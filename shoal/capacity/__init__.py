"""What a served index takes: memory, disk, hours of computing and latency, planned from measured constants."""
