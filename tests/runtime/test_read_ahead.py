import mmap
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pagedc.runtime import read_ahead as module
from pagedc.runtime.read_ahead import populate, read_ahead

NUM_BYTES = 4 << 20
STEP = 1 << 20
KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


def write_uncached(path: Path) -> None:
    """A file that the page cache does not hold; skips where it always does."""
    path.write_bytes(os.urandom(NUM_BYTES))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if is_cached(path):
        pytest.skip("this file system is in memory")


def is_cached(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return all(
                os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT)
                for offset in range(0, NUM_BYTES, STEP)
            )
        except BlockingIOError:
            return False
        except OSError:
            pytest.skip("this file system does not say what is cached")


@pytest.mark.parametrize("advice", [22, 9999])  # the second no kernel knows, as old ones do not the first
def test_the_weights_of_a_package_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advice: int
) -> None:
    monkeypatch.setattr(module, "_MADV_POPULATE_READ", advice)
    monkeypatch.setattr(module, "CHUNK", STEP)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "empty.safetensors").write_bytes(b"")
    path = tmp_path / "weights" / "model.safetensors"
    write_uncached(path)
    read_ahead(tmp_path).join()
    assert is_cached(path)


def test_what_is_not_there_is_left_to_others(tmp_path: Path) -> None:
    read_ahead(tmp_path / "missing").join()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").symlink_to("nowhere")
    read_ahead(tmp_path).join()


def test_no_thread_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert not read_ahead(tmp_path).is_alive()


PEAK_MEMORY = """
import sys
from pathlib import Path
from pagedc.runtime.read_ahead import read_ahead
read_ahead(Path(sys.argv[1])).join()
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def test_weights_that_are_read_are_not_this_processs_memory(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    with (tmp_path / "weights" / "model.safetensors").open("wb") as file:
        file.truncate(256 << 20)
    kilobytes = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(tmp_path)], capture_output=True, check=True
    ).stdout
    assert int(kilobytes) << 10 < 128 << 20


@pytest.mark.skipif(KERNEL < (5, 14), reason="this kernel cannot")
def test_populated_pages_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(NUM_BYTES))
    monkeypatch.setattr(module, "CHUNK", 3 * STEP)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        array = np.frombuffer(data, np.uint8)
        assert populate(array.ctypes.data, NUM_BYTES)
        found = re.search(rf"{path}\n(?:.*\n)*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text())
        del array
    assert found is not None
    assert int(found[1]) << 10 == NUM_BYTES
