"""A job on a Ray cluster: submitted and followed with the `ray job` command line, so that the core needs no Ray."""

import json
import os
import re
import secrets
import subprocess
import sys
import time

import httpx

from shoal.cli.application import application_folder
from shoal.errors import InvalidArgument, ShoalError

SHIPPED = {"jobs", "serve", "shoal", "pyproject.toml", "README.md"}
"""What travels to the cluster; everything else in the application folder stays here."""


def follow(address: str, module: str, arguments: list[str], as_json: bool) -> int:
    """Submit `python -m module` to the cluster, show its log until it ends, and return its exit code.

    address: URL of the cluster's dashboard. With `as_json` the log goes to stderr, and the last JSON object in it to
    stdout. Ctrl-C ends the following, not the job. Raises InvalidArgument when there is no cluster at the address.
    """
    _require_cluster(address)
    job = f"{module.rpartition('.')[2].replace('_', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    process = subprocess.Popen(
        _submission(address, job, [module, *arguments]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    code, result = None, None
    try:
        for line in process.stdout:
            print(line, end="", flush=True, file=sys.stderr if as_json else sys.stdout)
            if failed := re.search(r"entrypoint command failed with exit code (\d+)", line):
                code = int(failed[1])
            if line.startswith("{"):
                result = _object(line) or result
        process.wait()
    except KeyboardInterrupt:
        process.wait()
        print(f"the job goes on; to stop it: ray job stop --address {address} {job}", file=sys.stderr)  # noqa: T201
        raise
    if as_json:
        if result is None:
            raise ShoalError(f"job {job} printed no result; its log is above")
        print(json.dumps(result))  # noqa: T201
    return process.returncode if code is None else code


def _submission(address: str, job: str, command: list[str]) -> list[str]:
    folder = application_folder()
    excludes = sorted(f"/{entry.name}" for entry in folder.iterdir() if entry.name not in SHIPPED)
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", address]
    runtime_env = json.dumps({"excludes": excludes})
    place = ["--submission-id", job, "--working-dir", str(folder), "--runtime-env-json", runtime_env]
    return [*submit, *place, "--", "python", "-m", *command]


def _require_cluster(address: str) -> None:
    try:
        # Any answer will do, even a refusal: the `ray` command knows how to sign in.
        httpx.get(f"{address.rstrip('/')}/api/version", timeout=10)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        remedy = "give --address the URL of a running cluster, such as http://HEAD:8265"
        raise InvalidArgument(f"no Ray dashboard at {address} ({error}); {remedy}", param="--address") from None


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
