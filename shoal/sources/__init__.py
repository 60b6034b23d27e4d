"""Where passages come from. One file format is one file here; see `shoal.sources.formats` for how they are told apart.

`PassageReader` is all that the build needs: it turns one part of the input into passages and rejected records.
"""

from shoal.sources.reader import InputPart, PassageReader, Rejected

__all__ = ["InputPart", "PassageReader", "Rejected"]
