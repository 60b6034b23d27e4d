import importlib.util
import logging
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

# Ray reads these once, when it is first imported, and test modules import it while they are collected: no token, no
# statistics, and 127.0.0.1 instead of every interface.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# As in a server of ours: a busy machine takes longer to start a proxy than the 5 s that Serve allows.
os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "45"
# Ray's own report of a crash goes where pytest keeps it to itself; Python's is seen.
os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"

# Contract suites assert as test modules do: with the values that failed.
pytest.register_assert_rewrite("shoal.testing")

# No test asserts a time, and a busy machine makes any deadline too short.
hypothesis.settings.register_profile("shoal", deadline=None)
hypothesis.settings.load_profile("shoal")

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run files beside each other, but one Ray at a time: two would share their ports and the cores."""
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(("tests/integration/", "tests/e2e/")) else super()._split_scope(nodeid)

    return OneRay(config, log)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: packed ones hold the time they were made, and each worker must collect the same."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server (moto) on loopback; the credentials that clients need are in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            environment.delenv(name, raising=False)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_uri(s3_endpoint: str) -> str:
    """The URI of an empty prefix in a bucket of its own."""
    from pyarrow.fs import S3FileSystem

    bucket = f"shoal-{uuid.uuid4().hex[:12]}"
    S3FileSystem(endpoint_override=s3_endpoint, region="us-east-1", allow_bucket_creation=True).create_dir(bucket)
    return f"s3://{bucket}/index?endpoint_override={s3_endpoint}&region=us-east-1"


@pytest.fixture(scope="session")
def local() -> ModuleType:
    """The module cluster/local.py, loaded by path: `with local.LocalCluster(nodes=3) as cluster`."""
    spec = importlib.util.spec_from_file_location("shoal_cluster_local", ROOT / "cluster" / "local.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
