"""A build of a source in one process, stage by stage and without Ray: for counting, and for small machines."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shoal.encoders import load_encoder
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.indexing.base import check_shard, choose_base, open_base
from shoal.indexing.commits import Tally
from shoal.indexing.embed import embed_unit
from shoal.indexing.plan import make_plan
from shoal.indexing.publish import reuse_of
from shoal.indexing.spool import spool
from shoal.indexing.stages import publish_units
from shoal.settings import BuildSettings


def build_in_process(source: Path, index: Path, **options: Any) -> tuple[dict[str, Any], int]:
    """Build a source in a process, and return a summary as that of `shoal build`, and the peak of its memory in KiB.

    Args:
        source: A file.
        index: The index root; what was current there is copied from.
        options: Of a build, by their names.

    Ends the program if it fails.
    """
    settings = json.dumps({"source": str(source), "index": str(index), **options})
    command = [sys.executable, "-m", "benchmarks.support.staged_build", settings]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the build of {source} failed")
    summary: dict[str, Any] = json.loads(done.stdout)
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary["seconds"].items())
    print(f"{summary['passages']:,} passages, {summary['processor_s']:.1f} s of a processor ({stages})", flush=True)
    return summary, summary.pop("peak_kib")


def main(settings: BuildSettings) -> dict[str, Any]:
    """Build in this process and return the summary."""
    began = time.monotonic()
    storage, encoder, seconds = Storage(settings.index), load_encoder(settings), {}
    plan, _ = choose_base(make_plan(settings, encoder.fingerprint()), storage)
    plan = spool(plan, storage)
    seconds["plan"] = time.monotonic() - began
    base, tally = open_base(plan, storage), Tally(len(plan.units), plan.shards)
    for shard in range(0 if base is None else base.shards):
        if problems := check_shard(plan, shard, storage):
            sys.exit(problems[0])
    seconds["base"] = time.monotonic() - began - sum(seconds.values())
    for unit in plan.units:
        tally.add_commit(embed_unit(plan, unit, encoder, storage, None, base))
    seconds["embed"] = time.monotonic() - began - sum(seconds.values())
    manifest = publish_units(plan, storage, tally, settings.threads, settings.verify_queries)
    versions.activate(storage, manifest.version, verified=True)
    versions.discard_staging(storage, plan.hash)
    seconds["index and publish"] = time.monotonic() - began - sum(seconds.values())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "index": settings.index,
        "version": manifest.version,
        "passages": manifest.counts.passages,
        **reuse_of(manifest),
        "seconds": {**seconds, "total": time.monotonic() - began},
        "processor_s": usage.ru_utime + usage.ru_stime,
        "peak_kib": usage.ru_maxrss,
    }


if __name__ == "__main__":
    print(json.dumps(main(BuildSettings.model_validate_json(sys.argv[1]))))
