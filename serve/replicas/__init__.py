"""What runs in the replicas: plain classes without a trace of Ray, decorated and wired by `serve.app` alone.

Replicas run their methods on one event loop, so nothing here blocks it: models and indexes compute in threads, and work
whose deadline passes while it waits for a thread is dropped before it starts.
"""
