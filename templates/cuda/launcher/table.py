"""kernels.json: which binaries a package has, and what each kernel launches for each size of a step."""

import json
from bisect import bisect_left
from pathlib import Path
from typing import Any


class LaunchTable:
    """binaries: module, function, parameters (types), constants, num_warps, and of a cubin file, symbol,
    threads, shared and global_scratch (bytes), hidden (pointers behind the parameters), pdl.
    """

    def __init__(self, package: Path) -> None:
        data = json.loads((package / "kernels" / "kernels.json").read_bytes())
        self.arch: str = data["arch"]
        self.global_scratch: int = data["global_scratch"]  # bytes, of the launch that needs most
        self.buckets: dict[str, list[int]] = data["buckets"]  # of S sequences, T tokens, R rows
        self.binaries: list[dict[str, Any]] = data["binaries"]
        self._kernels: dict[str, Any] = data["kernels"]

    def bucket(self, dimension: str, size: int) -> int:
        """The smallest planned size that holds `size`."""
        sizes = self.buckets[dimension]
        return sizes[bisect_left(sizes, size)]

    def launches(self, kernel: str, sizes: dict[str, int]) -> list[dict[str, Any]]:
        """binary, grid and args of each launch, for a step of these sizes."""
        entry = self._kernels[kernel]
        launches: list[dict[str, Any]] = entry["launches"][str(sizes[entry["dimension"]])]
        return launches
