"""Aids for tests of Shoal and of plug-ins: contract suites, fakes of every service, an event loop with virtual time."""
