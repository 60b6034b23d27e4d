"""The version of Shoal: in a module of its own, so that the clients need not import what offers them."""

__version__ = "0.2.0"
