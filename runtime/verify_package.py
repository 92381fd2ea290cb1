"""`pagedc verify PACKAGE`: every byte is as it was sealed, and the program runs on this machine."""

import json
import sys
from pathlib import Path

from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.executors import open_executor
from pagedc.runtime.package import Package
from pagedc.runtime.teacher_forcing import teacher_force


def verify_package(path: Path, *, as_json: bool) -> int:
    """Hash all files, weights included, and run one token; raises PackageError or ExecutorError."""
    package = Package.open(path, verify=True)
    config = resolve(package.manifest, EngineOptions(max_num_seqs=1))
    executor = open_executor(package, config)
    try:
        for _ in teacher_force(executor, config, [0]):
            pass
    finally:
        executor.close()
    num_files = len(package.manifest.files)
    num_bytes = sum(entry.size for entry in package.manifest.files.values())
    if as_json:
        json.dump(
            {"package": str(package.path), "files": num_files, "bytes": num_bytes}, sys.stdout, indent=2
        )
        print()
    else:
        print(f"{path}: {num_files} files, {num_bytes / 1e6:.0f} MB, all as sealed; the program runs here")
    return 0
