"""The input of one unit of a plan: which part of which files is read, through staging where a file was spooled."""

from functools import partial

from shoal.index_root.storage import Storage
from shoal.indexing.plan import Plan
from shoal.indexing.spool import open_piece
from shoal.indexing.work_units import Unit
from shoal.sources import InputPart, PassageReader


def read_unit(plan: Plan, unit: Unit, storage: Storage) -> PassageReader:
    """Read a unit of a plan, or its head.

    Args:
        plan: What is built.
        unit: One of `plan.units`, or `plan.head`.
        storage: The index root, in whose staging folder the spooled pieces lie.

    Returns:
        A reader, whose places `Plan.place` turns into files and lines.
    """
    return PassageReader(_input_part(plan, unit, storage), plan.source, plan.encoder.dim)


def _input_part(plan: Plan, unit: Unit, storage: Storage) -> InputPart:
    if plan.source.format == "text":
        return InputPart(plan.files[unit.start : unit.stop], unit.start, unit.stop)
    file = plan.files[unit.file]
    if file.pieces is None:
        return InputPart([file], unit.start, unit.stop)
    return InputPart([file], unit.start, unit.stop, partial(open_piece, plan.hash, unit.file, unit.start, storage))
