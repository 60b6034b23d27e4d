"""Offline work: each entry point runs as `python -m jobs.NAME`, locally or through `ray job submit`."""

from shoal.cli.errors import check_program

check_program()
