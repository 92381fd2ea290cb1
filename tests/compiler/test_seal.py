import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.compiler.packages import manifest

from pagedc.compiler import seal
from pagedc.compiler.errors import InternalError, OptionError, OutputError
from pagedc.compiler.seal import PackageWriter, is_package
from pagedc.runtime.manifest import parse_manifest


def write(
    output: Path, text: str = "int main() {}\n", before_finish: Callable[[], None] = lambda: None
) -> Path:
    with PackageWriter(output) as writer:
        writer.write_text("model.cpp", text)
        writer.write_bytes("kernels/model.so", b"\x7fELF")
        writer.path("weights/model.safetensors").write_bytes(bytes(100))
        writer.write_text("serve", "#!/bin/sh\n", executable=True)
        before_finish()
        return writer.finish(manifest())


def content(package: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()
    }


def test_manifest_holds_every_file(tmp_path: Path) -> None:
    package = write(tmp_path / "deep" / "tiny.pagedc")
    files = content(package)
    entries = parse_manifest(files.pop("manifest.json")).files
    assert set(entries) == set(files)
    for name, data in files.items():
        assert (entries[name].size, entries[name].sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert os.access(package / "serve", os.X_OK)
    assert not os.access(package / "model.cpp", os.X_OK)
    assert list(package.parent.iterdir()) == [package]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    assert content(write(tmp_path / "one")) == content(write(tmp_path / "two"))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_package_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(seal, "_exchange", lambda first, second: False)
    write(tmp_path / "tiny.pagedc", "old")
    (tmp_path / "tiny.pagedc" / "stray").touch()
    package = write(tmp_path / "tiny.pagedc", "new")
    assert content(package)["model.cpp"] == b"new"
    assert "stray" not in content(package)
    assert list(tmp_path.iterdir()) == [package]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "tiny.pagedc").mkdir()
    assert is_package(write(tmp_path / "tiny.pagedc"))


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_what_is_no_package_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text("[]")
    with pytest.raises(OptionError, match="is not a package of pagedc"):
        PackageWriter(tmp_path / "home")
    with pytest.raises(OptionError, match="a file is there"):
        PackageWriter(tmp_path / "home" / name)
    assert (tmp_path / "home" / name).read_text() == "[]"


def test_what_appears_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    def appear() -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").touch()

    with pytest.raises(OptionError):
        write(tmp_path / "out", before_finish=appear)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_failure_leaves_the_old_package(tmp_path: Path, error: BaseException) -> None:
    before = content(write(tmp_path / "tiny.pagedc", "old"))

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        write(tmp_path / "tiny.pagedc", "new", before_finish=fail)
    assert content(tmp_path / "tiny.pagedc") == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pagedc"]


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(OutputError, match="no space left on the disk") as error,
        PackageWriter(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(error.value)

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(seal, "_sync", fail)
    with pytest.raises(OutputError, match="no space left on the disk"):
        write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "out", Path("/proc/out"), Path("/proc/a/b/out")):
        with pytest.raises(OutputError, match=f"{place}: cannot be written") as error:
            PackageWriter(place)
        assert "\n" not in str(error.value)


def test_looking_at_a_place_leaves_nothing_there(tmp_path: Path) -> None:
    PackageWriter(tmp_path / "a" / "b" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "", ".", "a/./b", "manifest.json"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(InternalError, match="no name for a file"), PackageWriter(tmp_path / "out") as writer:
        writer.path(name)


def test_links_are_refused(tmp_path: Path) -> None:
    writer = PackageWriter(tmp_path / "out")
    with writer:
        writer.path("kernels/model.so").symlink_to("/etc/passwd")
        with pytest.raises(InternalError, match="must be movable"):
            writer.finish(manifest())
        writer.path("kernels/model.so").unlink()
        writer.finish(manifest())


def test_forgotten_finish_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="without finish"), PackageWriter(tmp_path / "out") as writer:
        writer.write_text("model.cpp", "")
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from pathlib import Path
from pagedc.compiler.seal import PackageWriter
with PackageWriter(Path(sys.argv[1])) as writer:
    writer.write_text("model.cpp", "half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_what_a_killed_compile_left_is_removed(tmp_path: Path, sent: signal.Signals) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        try:
            package = write(tmp_path / "out")  # beside a compile that lives
            assert len(list(tmp_path.iterdir())) == 2
        finally:
            process.send_signal(sent)
    assert len(list(tmp_path.iterdir())) == (2 if sent == signal.SIGKILL else 1)
    write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [package]
