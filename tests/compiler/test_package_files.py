import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compiler.packages import manifest

import pagedc
from pagedc.compiler.package_files import memory_mib, one_line, slug, write_package_files
from pagedc.compiler.seal import PackageWriter


def write(output: Path, name: str = "Tiny-1B") -> Path:
    with PackageWriter(output) as writer:
        writer.write_text("model.cpp", "")
        writer.write_bytes("weights/model.safetensors", b"")
        write_package_files(writer, manifest(name), "a `test`\n| of ours")
        return writer.finish(manifest(name))


def fake_python(path: Path, *, has_pagedc: bool) -> Path:
    """A program that says what it was asked to run."""
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$2" = -c ] && exit {0 if has_pagedc else 1}\n'
        'for word in "$(basename "$0")" "$@"; do printf \'%s\\n\' "$word"; done\n'
    )
    path.chmod(0o755)
    return path


def serve(package: Path, *words: str, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:/usr/bin:/bin", **variables}
    return subprocess.run(
        [str(package / "serve"), *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a folder with a difficult name, compiled by a Python in another."""
    compiled_with = tmp_path / "the python's"
    compiled_with.mkdir()
    monkeypatch.setattr(sys, "executable", str(fake_python(compiled_with / "compiler", has_pagedc=True)))
    return write(tmp_path / "a b$c" / "tiny.pagedc")


def test_launcher_prefers_what_is_named_then_what_compiled(package: Path, tmp_path: Path) -> None:
    named = fake_python(tmp_path / "named", has_pagedc=True)
    fake_python(tmp_path / "python3", has_pagedc=True)
    expected = ["-P", "-m", "pagedc.runtime.cli", "serve", str(package), "--port", "80 80"]
    words = ("--port", "80 80")
    done = serve(package, *words, path=str(tmp_path), PAGEDC_PYTHON=str(named))
    assert done.stdout.splitlines() == ["named", *expected]
    assert serve(package, *words, path=str(tmp_path)).stdout.splitlines() == ["compiler", *expected]
    shutil.rmtree(tmp_path / "the python's")
    assert serve(package, *words, path=str(tmp_path)).stdout.splitlines() == ["python3", *expected]


def test_launcher_asks_a_python_whose_pagedc_has_gone(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python(tmp_path / "the python's" / "compiler", has_pagedc=False)
    fake_python(tmp_path / "python3", has_pagedc=True)
    monkeypatch.setattr(pagedc, "__file__", str(tmp_path / "no more" / "__init__.py"))
    moved = write(tmp_path / "moved.pagedc")
    assert serve(moved, path=str(tmp_path)).stdout.splitlines()[0] == "python3"


def test_launcher_works_after_a_move_and_through_a_link(package: Path, tmp_path: Path) -> None:
    moved = package.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(moved / "serve")
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [str(tmp_path / "link")], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == str(moved)


def test_launcher_without_pagedc_is_one_line(package: Path, tmp_path: Path) -> None:
    named = fake_python(tmp_path / "named", has_pagedc=False)
    done = serve(package, path=str(tmp_path), PAGEDC_PYTHON=str(named))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 1)
    assert "pip install pagedc" in done.stderr


def test_readme_lists_what_is_there(package: Path) -> None:
    text = (package / "README.md").read_text()
    assert "| `weights/` |" in text
    assert "graph.onnx" not in text
    assert "| from | a test of ours |" in text
    assert "llama, 1,000,000,000 parameters, 2 layers" in text


def test_a_stranger_s_name_breaks_nothing(tmp_path: Path) -> None:
    package = write(tmp_path / "out", "x\n`rm -rf`: '; | {{ 7 * 7 }} <b>")
    assert "image: x-rm-rf-7-7-b:latest" in (package / "k8s.yaml").read_text()
    assert "docker build -t x-rm-rf-7-7-b ." in (package / "Dockerfile").read_text()
    assert "# x rm -rf : '; {{ 7 * 7 }} b" in (package / "README.md").read_text()


def test_pods_are_locked_down(package: Path) -> None:
    text = (package / "k8s.yaml").read_text()
    for wanted in (
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
        "preStop",
        "kubernetes.io/arch: amd64",
        f"memory: {memory_mib(manifest())}Mi",
    ):
        assert wanted in text
    assert "USER 10001" in (package / "Dockerfile").read_text()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SmolLM2-135M-Instruct", "smollm2-135m-instruct"), ("日本", "model"), ("a" * 99, "a" * 63)],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_one_line() -> None:
    assert one_line("a\n|b`\u202ec<d>") == "a b c d"
