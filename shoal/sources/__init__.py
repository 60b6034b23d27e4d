"""Where passages come from. One file format is one file here; see `shoal.sources.formats` for how they are told apart.

`read_unit` is all that the build needs: it turns one unit of a plan into passages and rejected records.
"""

from shoal.sources.reader import Rejected, UnitReader, read_unit

__all__ = ["Rejected", "UnitReader", "read_unit"]
