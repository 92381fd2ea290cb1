"""Open a package: check everything that can be checked before a byte of it is trusted or run.

A package may have been copied, cut short, edited or made for another machine. Each of these ends in one
PackageError of one line that says what is wrong and what to do; nothing is loaded before all checks have
passed.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from pagedc.runtime.errors import PackageError
from pagedc.runtime.machine import lacks_cpu
from pagedc.runtime.manifest import (
    ABI_VERSION,
    BROKEN_JSON,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    manifest_path,
    parse_manifest,
)

if TYPE_CHECKING:
    from pagedc.runtime.weights import MappedWeights

MAX_MANIFEST_BYTES = 64 << 20
COPY_AGAIN = "copy the package again, or compile it again"


@dataclass(frozen=True, slots=True)
class Package:
    """A package directory whose manifest, files and machine have been checked.

    >>> package = Package.open("smollm2-135m.pagedc")
    >>> package.manifest.model.name
    """

    path: Path  # absolute
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False, to_run: bool = True) -> "Package":
        """Check a package and return it; raises PackageError.

        Sizes of all files and hashes of all but the weights are compared with the manifest; of the weights
        too with `verify`. Without `to_run` it may be for another machine.
        """
        package = Path(os.path.realpath(path))
        try:
            is_there = package.is_dir()
        except OSError as error:
            raise PackageError(f"{path}: cannot be read: {error.strerror}") from None
        if not is_there:
            raise PackageError(f"{path}: no such directory; a package is what `pagedc compile` writes")
        manifest = read_manifest(package)
        if to_run:
            _check_machine(package, manifest)
        _check_files(package, manifest, verify=verify)
        return cls(package, manifest)

    @property
    def program_path(self) -> Path:
        """The library that is loaded: model.so."""
        return self.path / self.manifest.program

    @property
    def tokenizer_path(self) -> Path:
        """The directory with tokenizer.json, chat_template.jinja, …"""
        return self.path / "tokenizer"

    def map_weights(self) -> "MappedWeights":
        """Map the weights into memory; the caller closes them."""
        from pagedc.runtime.weights import MappedWeights  # numpy: 0.1 s that a server starts without

        return MappedWeights(self.path, self.manifest.weights)


def read_manifest(package: Path) -> Manifest:
    """The manifest alone, nothing else checked; raises PackageError."""
    path = manifest_path(package)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise PackageError(
                f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, so no manifest; {COPY_AGAIN}"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise PackageError(
            f"{package}: no {MANIFEST_NAME}: not a package; `pagedc compile` writes one"
        ) from None
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        versions = msgspec.json.decode(data, type=_Versions)  # first: another schema may have other fields
    except BROKEN_JSON as error:
        raise PackageError(f"{path}: not a manifest: {error}; {COPY_AGAIN}") from None
    _check_version(package, "schema", versions.schema_version, SCHEMA_VERSION)
    _check_version(package, "ABI", versions.abi_version, ABI_VERSION)
    try:
        return parse_manifest(data)
    except BROKEN_JSON as error:
        raise PackageError(f"{path}: not a manifest: {error}; {COPY_AGAIN}") from None


class _Versions(msgspec.Struct):
    schema_version: int
    abi_version: int


def _check_version(package: Path, name: str, found: int, known: int) -> None:
    if found != known:
        what = "compile the model again with this pagedc" if found < known else "upgrade pagedc"
        raise PackageError(
            f"{package}: {name} version {found}, but this pagedc reads version {known}; {what}"
        )


def _check_machine(package: Path, manifest: Manifest) -> None:
    """Of a package for GPUs the executor knows its device."""
    missing = lacks_cpu(manifest.target) if manifest.target.kind == "cpu" else None
    if missing is not None:
        raise PackageError(f"{package}: {missing}")


def _check_files(package: Path, manifest: Manifest, *, verify: bool) -> None:
    weights = {weight.file for weight in manifest.weights}
    for name in (manifest.program, *sorted(weights)):
        if name not in manifest.files:
            raise PackageError(f"{package}: its manifest names {name} but does not list it; {COPY_AGAIN}")
    for name, entry in manifest.files.items():
        _check_name(package, name)
        _check_file(package / name, entry, check_hash=verify or name not in weights)
    extra = sorted(set(_walk(package)) - set(manifest.files) - {MANIFEST_NAME})
    if extra:
        others = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise PackageError(f"{package}: holds {extra[0]}{others}, not in its manifest; delete what was added")


def _check_name(package: Path, name: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or pure.as_posix() != name or "\0" in name or name == ".":
        raise PackageError(
            f"{package}: its manifest names the file {name!r}, which is not inside it; do not use it"
        )
    path = os.path.join(package, name)
    if os.path.realpath(path) == path:  # no link: a fifth of the time of what follows
        return
    try:
        is_inside = (package / name).resolve().is_relative_to(package)
    except (OSError, RuntimeError):  # a loop of links
        is_inside = False
    if not is_inside:
        raise PackageError(f"{package}: {name} is a link that leads out of it; do not use it")


def _check_file(path: Path, entry: FileEntry, *, check_hash: bool) -> None:
    try:
        if not path.is_file():
            raise PackageError(f"{path}: missing; {COPY_AGAIN}")
        size = path.stat().st_size
        if size != entry.size:
            raise PackageError(f"{path}: {size} bytes, but its manifest says {entry.size}; {COPY_AGAIN}")
        if check_hash and _sha256(path) != entry.sha256:
            raise PackageError(f"{path}: its content is not what was compiled (sha256 differs); {COPY_AGAIN}")
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error.strerror}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(package: Path) -> Iterator[str]:
    """Every file of the package by its name in a manifest; directories are not followed through links."""
    for directory, subdirectories, files in os.walk(package):
        links = [name for name in subdirectories if os.path.islink(os.path.join(directory, name))]
        for name in (*files, *links):
            yield Path(directory, name).relative_to(package).as_posix()
