"""The program of a compaction that a server starts: `shoal compact` at low priority, which ends with its server."""

import os
import threading

NICENESS = 10
"""How much less of the CPUs it gets than the server, in steps of `nice`."""
ABANDONED = 1
"""Exit code where its server is gone."""


def _end_with_server() -> None:
    """Wait for the end of the standard input, whose other end the server holds."""
    while os.read(0, 1):  # not sys.stdin, whose lock Python wants when it ends
        pass
    os._exit(ABANDONED)  # nothing is lost: the next compaction goes on where this one was


def main() -> None:
    """Run `shoal compact` with the arguments of this program."""
    os.nice(NICENESS)
    threading.Thread(target=_end_with_server, daemon=True).start()
    from shoal.cli.compact import app
    from shoal.cli.errors import run

    run(app)


if __name__ == "__main__":
    main()
