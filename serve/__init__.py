"""Online work: Ray Serve wiring, HTTP and its dialects. Import from its modules: `from serve.app import build_app`."""

from shoal.cli.errors import check_program

check_program()
