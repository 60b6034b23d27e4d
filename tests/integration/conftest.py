import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Before anything imports Ray: no token, no statistics, and 127.0.0.1 instead of every interface.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

ROOT = Path(__file__).parents[2]


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
