"""Aids for tests of Shoal and of what is built on it: an event loop with virtual time, and fakes of every service."""
