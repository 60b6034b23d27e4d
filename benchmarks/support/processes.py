"""Runs a build and notes the peak memory of its processes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shoal.system.processes import descendants

POLL_S = 0.1
# Beginnings of process titles. The title of a Ray worker is what it does at the moment.
KINDS = {
    "ray::MapWorker": "embedding worker",
    "ray::fingerprint": "task worker",
    "ray::sample_queries": "task worker",
    "ray::train": "task worker",
    "ray::count_terms": "task worker",
    "ray::merge_terms": "task worker",
    "ray::index": "task worker",
    "ray::verify": "task worker",
    "ray::_StatsActor": "Ray Data statistics",
    "ray::_AutoscalingCoordinatorActor": "Ray Data autoscaling",
    "ray::ActorLocationTracker": "Ray Data locations",
    "raylet": "raylet",
    "gcs_server": "Ray control store",
}
# Ray starts workers ahead of work. Of those that never get any, a look tells only how far their start has come.
IDLE = ("workers/default_worker", "ray::IDLE")


def build(folder: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Run a build, and return its summary and the highest VmHWM of each kind of process that works, in KiB.

    folder: for its log. arguments: of `python -m jobs.build_index`, without `--json`. Ends the program if it fails.
    """
    command = [sys.executable, "-m", "jobs.build_index", *arguments, "--json"]
    peaks: dict[int, int] = {}
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=log, text=True
        )
        kinds = {process.pid: "driver"}
        while process.poll() is None:
            for pid in [process.pid, *descendants(process.pid)]:
                look(pid, peaks, kinds)
            time.sleep(POLL_S)
        if process.returncode:
            log.seek(0)
            sys.exit(f"the build {' '.join(arguments)} failed:\n{log.read()}")
    summary = json.loads(process.stdout.read()) if process.stdout else {}
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary["seconds"].items())
    print(
        f"{summary['passages']:,} passages: {summary['passages_per_s']:,.0f} passages/s, "
        f"{summary['workers']} workers ({stages})"
    )
    highest: dict[str, int] = {}
    for pid, peak in peaks.items():
        kind = kinds[pid]
        if kind in IDLE:
            continue
        highest[kind] = max(peak, highest.get(kind, 0))
    return summary, highest


def look(pid: int, peaks: dict[int, int], kinds: dict[int, str]) -> None:
    """Note the peak of a process, and its kind once its title tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            peaks[pid] = max(peaks.get(pid, 0), int(line.split()[1]))
    name = title.strip() if title.startswith("ray::") else Path(title.partition(" ")[0]).name
    if name.startswith("python"):  # an agent of Ray, which its script names
        name = next(
            (Path(word).parent.name + "/" + Path(word).stem for word in title.split() if word.endswith(".py")), name
        )
    for sign, kind in KINDS.items():
        if name.startswith(sign):
            kinds[pid] = kind
            return
    kinds.setdefault(pid, name if name in IDLE else f"Ray's {name}")


def resident_mib(name: str) -> float:
    """Resident memory of this process in MiB: VmRSS with mapped files, RssAnon without."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024
