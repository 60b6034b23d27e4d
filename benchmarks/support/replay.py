"""Opens an index whose log holds what was written, in a process of its own, and says what that takes."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import shoal
from benchmarks.support.processes import resident_mib
from shoal.indexing.empty import create_index
from shoal.settings import CreateSettings


def replay(root: Path, position: int, settings: dict[str, Any]) -> dict[str, float]:
    """Open an index root in a new process.

    Args:
        root: With a version and a log.
        position: The last one of the log.
        settings: Of `shoal.open`.

    Returns:
        `rows`, the passages of the index; `seconds` from opening it until a search has seen all of the log;
        `processor_s`, what of a processor that took; `mib`, the anonymous memory that it took, in MiB.
    """
    command = [sys.executable, "-m", "benchmarks.support.replay", str(root), str(position), json.dumps(settings)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main(root: str, position: int, settings: dict[str, Any]) -> dict[str, float]:
    """Open the index root in this process, which has imported all that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        create_index(CreateSettings(index=f"{folder}/empty", encoder="hashing:16", threads=1))
        with shoal.open(f"{folder}/empty", **settings) as index:
            index.search("nothing", top_n=1)
    before, began, used = resident_mib("RssAnon"), time.perf_counter(), time.process_time()
    with shoal.open(root, **settings) as index:
        index.search("nothing", top_n=1, mode="lexical", min_position=position)
        taken = {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - used}
        return {"rows": index.describe().passages, **taken, "mib": resident_mib("RssAnon") - before}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))))
