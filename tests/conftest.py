"""What every test may count on: no model hub, no proxy, no clock, a plain terminal, and a GPU where it asks
for one.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.kernels import harness

# A busy machine is not a wrong answer; and what CI finds is found again.
settings.register_profile(
    "pagedc", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("pagedc")

if shutil.which("nvidia-smi") is None:
    # Read when triton is imported: its kernels run in its interpreter, and nothing here can compile them.
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that. Who is ended
# otherwise ends the servers of its tests too.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)

# What is printed depends neither on the terminal around the tests nor on what its user prefers.
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)
os.environ["TERM"] = "xterm"

# Servers of tests are asked without a proxy; what is downloaded may need it.
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub fails at once instead of when the network does


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Skip `gpu` tests, with the reason, where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session", autouse=True)
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is compiled once for all workers of pytest-xdist: packages, and the kernels' libraries."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    harness.directory = directory / "kernels"
    harness.directory.mkdir(parents=True, exist_ok=True)
    os.environ["TRITON_CACHE_DIR"] = str(directory / "triton")  # packages have many cubins in common
    return directory


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
