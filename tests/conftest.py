"""What every test may count on: no model hub, and a GPU where it asks for one."""

import os
import shutil
import subprocess
from collections.abc import Iterable

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub fails at once instead of when the network does


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Skip `gpu` tests, with the reason, where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
