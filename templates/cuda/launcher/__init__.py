"""Run a package's kernels: their cubins on a GPU, or their source under Triton's interpreter.

A device has memory at addresses, copies in stream order, and launches. It is given by `open_device`:

    allocate(num_bytes) -> int            zeroed, at a multiple of 256 bytes
    pinned(num_bytes) -> ndarray          of the host, uint8, zeroed, fast to copy from
    copy_in(address, array)               host to device
    copy_rows(address, pitch, array)      host [rows, width] to device rows `pitch` bytes apart
    copy_out(array, address)              device to host
    prepare(binary, grid, values)         a launch with its arguments, for `run`
    run(launches), capture(work)          now, or as something to call that does the same
    mark(slot), wait(slot)                a point of the stream, and waiting for it
    use()                                 once in each thread that does any of these
    synchronize(), close()

These files import each other, ctypes and numpy; the interpreter torch and triton too.
"""

from pathlib import Path
from typing import Any

from pagedc.templates.cuda.launcher.errors import DeviceError
from pagedc.templates.cuda.launcher.table import LaunchTable

__all__ = ["DeviceError", "LaunchTable", "open_device"]


def open_device(package: Path, table: LaunchTable, name: str, *, interpret: bool) -> Any:
    """The device for a package, whose folder is importable as `name`. Raises DeviceError."""
    if interpret:
        from pagedc.templates.cuda.launcher.interpreter import Interpreter

        return Interpreter(table, name)
    from pagedc.templates.cuda.launcher.driver import Driver

    return Driver(package, table)
