"""A training on Ray."""
