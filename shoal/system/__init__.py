"""The machine below: cores and memory, processes, temporary folders, proxies, log context."""
