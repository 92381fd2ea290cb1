"""Write a package whole or not at all.

Files go to a temporary directory beside the output, which is hashed, given its manifest and renamed when
everything is there. A living process holds a lock on its temporary directory: one without a lock is what a
killed compile left behind.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import uuid
from pathlib import Path
from types import TracebackType

import msgspec

from pagedc.compiler.errors import CompileError, InternalError, OptionError, OutputError
from pagedc.runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, dump_manifest, manifest_path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


class PackageWriter:
    """A package being written: a context manager that leaves the whole new package or the old one."""

    def __init__(self, output: Path) -> None:
        """Raises OptionError where `output` exists and is no package (it is looked at again at the end), and
        OutputError where nothing can be written.
        """
        self.output = check_output(output)
        self._finished = False

    def __enter__(self) -> "PackageWriter":
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.output)
            self.directory = self.output.parent / f"{_prefix(self.output)}{uuid.uuid4().hex[:12]}.tmp"
            self.directory.mkdir()
            self._lock = os.open(self.directory, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _output_error(self.output, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)  # after a rename: the package that was replaced
        os.close(self._lock)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _output_error(self.output, error) from error
        if error is None and not self._finished:
            raise InternalError(f"{self.output}: left without finish()")

    def path(self, name: str) -> Path:
        """Where a file of the package goes, its folder made; `name` is relative with forward slashes."""
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or name == MANIFEST_NAME:
            raise InternalError(f"{name!r} is no name for a file of a package")
        path = self.directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_bytes(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Write one file."""
        path = self.path(name)
        path.write_bytes(data)
        if executable:
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def write_text(self, name: str, text: str, *, executable: bool = False) -> None:
        """Write one file as UTF-8, line ends as they are."""
        self.write_bytes(name, text.encode(), executable=executable)

    def names(self) -> list[str]:
        """The files written so far, sorted."""
        return sorted(self._files())

    def finish(self, manifest: Manifest) -> Path:
        """Seal the package: `manifest.files` is filled in from every file. Returns its path."""
        try:
            files = {name: _entry(path) for name, path in sorted(self._files().items())}
            sealed = msgspec.structs.replace(manifest, files=files)
            manifest_path(self.directory).write_bytes(dump_manifest(sealed))
            _sync(self.directory)
            check_replaceable(self.output)
            _replace(self.directory, self.output)
            _sync_one(self.output.parent)
        except OSError as error:
            raise _output_error(self.output, error) from error
        self._finished = True
        return self.output

    def _files(self) -> dict[str, Path]:
        found = {}
        for path in self.directory.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InternalError(f"{path.name}: neither a file nor a folder; a package must be movable")
            if path.is_file():
                found[path.relative_to(self.directory).as_posix()] = path
        return found


def is_package(path: Path) -> bool:
    """Whether a directory is a package of pagedc, of any schema."""
    try:
        manifest = json.loads(manifest_path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "pagedc_version"} <= set(manifest)


def check_replaceable(path: Path) -> Path:
    """The place, resolved; raises OptionError where it holds anything that is no package."""
    output = Path(os.path.abspath(path)).resolve()
    if not output.name:
        raise OptionError(f"{output}: not a place for a package")
    try:
        if output.exists() and not output.is_dir():
            raise OptionError(f"{output}: a file is there; choose another output")
        if output.exists() and not is_package(output) and any(output.iterdir()):
            raise OptionError(
                f"{output}: exists and is not a package of pagedc; choose another output or remove it"
            )
    except OSError as error:
        raise _output_error(output, error) from error
    return output


def check_output(path: Path) -> Path:
    """`check_replaceable`, and OutputError where no package can be written: tried, for permissions, read-only
    mounts and file systems of the kernel's own each say it otherwise. Nothing stays behind.
    """
    output = check_replaceable(path)
    above = next(folder for folder in output.parents if folder.exists())
    probe = above / f"{_prefix(output)}{uuid.uuid4().hex[:12]}.tmp"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _output_error(output, error) from error
    return output


def make_folder(path: Path) -> None:
    """Raises OutputError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(path, error) from error


def sha256_of(path: Path) -> str:
    """As a manifest has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=sha256_of(path))


def _sync(directory: Path) -> None:
    """Everything below a directory, then itself, is on the disk."""
    for path in directory.rglob("*"):
        _sync_one(path)
    _sync_one(directory)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(source: Path, target: Path) -> None:
    """Put `source` at `target`; what was there is then at `source`."""
    if not target.exists():
        source.rename(target)
    elif not _exchange(source, target):
        _swap(source, target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    failed = renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    return not failed


def _swap(source: Path, target: Path) -> None:
    """Swap in three renames, undone where the second fails."""
    aside = source.with_suffix(".old")
    target.rename(aside)
    try:
        source.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    aside.rename(source)


def _prefix(output: Path) -> str:
    return f".{output.name}."


def _remove_stale(output: Path) -> None:
    """Remove what dead compiles of the same output left behind."""
    for path in output.parent.glob("*.tmp"):
        if not path.name.startswith(_prefix(output)) or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where its process lives
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _output_error(output: Path, error: OSError) -> CompileError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{output}: no space left on the disk; nothing was changed")
    return OutputError(f"{output}: cannot be written: {error.strerror or error}")
