"""What was timed on a machine and chosen: rows that a package carries as tuning.json, and that a cache keeps.

Both targets share this table; what a row's constants mean is the target's own business.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from pagedc.compiler.errors import OptionError

TUNING_NAME = "tuning.json"
Mode = Literal["none", "quick", "full"]
BUDGETS: dict[Mode, float] = {"none": 0.0, "quick": 15.0, "full": 180.0}  # seconds of timing


class TunedKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel at one shape."""

    kernel: str  # "linear"
    shape: str  # "T=1 N=960 K=576 int4_g32_min": with `kernel`, the key of the row
    candidates: int  # that were timed; 1 = there was nothing to choose, 0 = a default that nobody timed
    config: str  # of the chosen one: "panels=2 tokens=4"
    microseconds: float | None = None  # None = not timed
    percent_of_limit: float | None = None  # of the machine's read bandwidth or arithmetic, whichever binds
    speedup: float | None = None  # over the default config
    constants: dict[str, int] = {}  # of the chosen one, as the target prints them; {} = its default
    limit: Literal["bandwidth", "arithmetic"] | None = None  # which of the two binds
    intensity: float | None = None  # operations a byte that must be read: its place in a roofline
    rate: float | None = None  # achieved: bytes a second, or operations a second where arithmetic binds
    pruned: dict[str, int] = {}  # candidates that were not timed, by reason: "spills", "predicted slower"


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that was tuned, on one machine."""

    device: str
    mode: Mode  # "none" = no kernel was timed, each is its default
    kernels: list[TunedKernel] = []
    read_bandwidth: float | None = None  # bytes a second, measured beside the kernels
    peak: float | None = None  # operations a second of the product the kernels use, operands in registers
    threads: int | None = None
    source: str = ""  # hash of the kernels' text and the compiler's flags: another one makes the rows void
    arch: str = ""  # of a GPU: "sm_90"; "" = a CPU


def dump_tuning(tuning: Tuning) -> bytes:
    """As JSON: the same bytes for the same rows."""
    return msgspec.json.format(msgspec.json.encode(tuning, order="deterministic"), indent=2) + b"\n"


def read_tuning(path: Path) -> Tuning:
    """A tuning.json that a person names; raises OptionError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tuning)
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise OptionError(f"{path} is not a tuning file: {error}") from None


def source_hash(files: Iterable[Path], *words: str) -> str:
    """Of the kernels' text and whatever else decides their speed: the compiler's name, its flags."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for word in words:
        digest.update(word.encode() + b"\0")
    return digest.hexdigest()[:16]


class TuningCache:
    """What this machine has timed before: one file for each device, source hash and number of threads."""

    def __init__(self, folder: Path, device: str, source: str, threads: int, mode: Mode) -> None:
        slug = "".join(c if c.isalnum() else "-" for c in device.lower()).strip("-")
        self.path = folder / "tuning" / f"{slug}-{source}-{threads}-{mode}.json"

    def load(self) -> Tuning | None:
        """None where there is none, or none that can be read: it is a cache."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Tuning)
        except (OSError, msgspec.MsgspecError):
            return None

    def store(self, tuning: Tuning) -> None:
        """Add its rows to those that are there. A folder that cannot be written to costs the next compile."""
        known = self.load()
        rows = {} if known is None else {(row.kernel, row.shape): row for row in known.kernels}
        rows |= {(row.kernel, row.shape): row for row in tuning.kernels}
        merged = msgspec.structs.replace(tuning, kernels=[rows[key] for key in sorted(rows)])
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(dump_tuning(merged))
            partial.replace(self.path)
        except OSError:
            return
