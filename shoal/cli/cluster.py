"""A job on a Ray cluster: submitted and followed with the `ray job` command line, so that the core needs no Ray."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from shoal.cli.application import PACKAGES, application_folder
from shoal.cli.installation import require_engine
from shoal.client.protocol import DIRECT
from shoal.errors import InvalidArgument, ShoalError
from shoal.system.processes import stop_on_signals
from shoal.system.proxies import no_proxy
from shoal.system.temporary import temporary_folder


def follow(address: str, module: str, arguments: list[str], as_json: bool) -> int:
    """Submit `python -m module` to the cluster, show its log until it ends, and return its exit code.

    Args:
        address: URL of the cluster's dashboard. With `as_json` the log goes to stderr, and the last JSON object in it
            to stdout. Ctrl-C and SIGTERM end the following, not the job.

    Raises:
        InvalidArgument: There is no cluster at the address, or none that lets us in, and when only the client is
            installed.
    """
    require_engine()
    _require_cluster(address)
    stop_on_signals()
    job = f"{module.rpartition('.')[2].replace('_', '-')}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with _copied_application() as folder:
        process = subprocess.Popen(
            _submission(address, job, folder, [module, *arguments]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "no_proxy": no_proxy()},
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
            print(f"the job goes on; to stop it: ray job stop --address {address} {job}", file=sys.stderr)  # noqa: T201
            raise
        finally:
            process.terminate()
            process.wait()
    if as_json:
        if result is None:
            raise ShoalError(f"job {job} printed no result; its log is above")
        print(json.dumps(result))  # noqa: T201
    return process.returncode if code is None else code


@contextmanager
def _copied_application() -> Iterator[Path]:
    """Yield a folder with the packages of the application and nothing else: all of it travels to the cluster.

    Beside the packages lie the rest of a checkout, or every other package that pip installed, torch among them.
    """
    with temporary_folder("job-") as folder:
        copy = folder / "application"
        for package in PACKAGES:
            shutil.copytree(
                application_folder() / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        yield copy


def _submission(address: str, job: str, folder: Path, command: list[str]) -> list[str]:
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", address]
    return [*submit, "--submission-id", job, "--working-dir", str(folder), "--", "python", "-m", *command]


def _require_cluster(address: str) -> None:
    """Raise InvalidArgument, with the remedy, unless a Ray dashboard answers at the address and lets us in."""
    remedy = "give --address the URL of a running cluster, such as http://HEAD:8265"
    try:
        with httpx.Client(mounts=DIRECT, timeout=10) as http:
            answer = http.get(f"{address.rstrip('/')}/api/version", headers=_authorization())
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise InvalidArgument(f"no Ray dashboard at {address} ({error}); {remedy}", param="--address") from None
    if answer.status_code in (401, 403):
        if _signs_in_by_itself():
            return
        problem = "refuses our token" if answer.status_code == 403 else "asks for a token"
        raise InvalidArgument(
            f"the cluster at {address} {problem}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to its token or "
            "RAY_AUTH_TOKEN_PATH to a file that holds it",
            param="--address",
        )
    if not answer.is_success or "ray_version" not in (_object(answer.text) or {}):
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        raise InvalidArgument(
            f"what answers at {address} is no Ray dashboard ({status} for /api/version); {remedy}", param="--address"
        )


def _authorization() -> dict[str, str]:
    """The header that the `ray` command will send too; its token lies in a variable, in a file, or at home."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token:
        file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        token = file.read_text().strip() if file.is_file() else None
    return {"authorization": f"Bearer {token}"} if token else {}


def _signs_in_by_itself() -> bool:
    """Whether the `ray` command has other means than a token that we can read."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    return mode not in ("token", "disabled") or bool(os.environ.get("RAY_JOB_HEADERS"))


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
