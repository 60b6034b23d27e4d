"""Clients of a Shoal server, the protocol they share and the shapes of its answers."""
