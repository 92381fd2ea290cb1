"""What the wheel holds, and what importing pagedc brings along."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import pagedc

ROOT = Path(__file__).parents[1]
SOURCES = ("compiler", "kernels", "runtime", "templates", "src", "tests")
FILES = ("pyproject.toml", "README.md", "LICENSE")
HEAVY = ("torch", "transformers", "tornado", "numpy", "rich")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel, built from a copy: setuptools leaves a build folder behind."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "tree" / name, symlinks=True, ignore=skip)
    for name in FILES:
        shutil.copy(ROOT / name, folder / "tree" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "tree"], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = folder.glob("pagedc-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def expected(folder: str, pattern: str) -> list[str]:
    return [f"pagedc/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob(pattern)]


def test_wheel_holds_every_module_header_and_template(wheel_names: list[str]) -> None:
    wanted = [f"pagedc/{path.name}" for path in (ROOT / "src/pagedc").iterdir() if path.is_file()]
    for folder in ("compiler", "runtime", "kernels", "templates"):
        wanted += expected(folder, "*.py")
    wanted += expected("kernels", "*.h") + expected("templates", "*.jinja")
    assert "pagedc/py.typed" in wanted
    assert sorted(set(wanted) - set(wheel_names)) == []


def test_wheel_holds_nothing_else(wheel_names: list[str]) -> None:
    strangers = [name for name in wheel_names if not name.startswith(("pagedc/", "pagedc-"))]
    assert strangers == []
    assert [name for name in wheel_names if "/tests/" in name or "conftest" in name] == []


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == pagedc.__version__


def modules_after(code: str, candidates: tuple[str, ...]) -> list[str]:
    """Which of the candidates a fresh interpreter has imported once it has run the code."""
    program = f"import sys\n{code}\nprint(*sorted(set(sys.modules) & set({candidates!r})), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stderr.split()


def test_importing_pagedc_is_light() -> None:
    assert modules_after("import pagedc", HEAVY) == []


def test_help_is_light() -> None:
    assert modules_after("from pagedc.cli import main; main(['--help'])", (*HEAVY, "argparse")) == []


def test_compile_options_are_checked_before_torch_is_imported() -> None:
    code = "from pagedc.cli import main; assert main(['compile', 'm', '--threads', '0']) == 2"
    program = "import sys; sys.stderr = open('/dev/null', 'w')\n" + code + "\nsys.stderr = sys.__stderr__"
    assert modules_after(program, ("torch", "transformers", "tornado")) == []


def test_the_server_starts_without_numpy() -> None:
    """Its engine's process has it; 0.1 s of the start of a server."""
    code = "import pagedc.runtime.serve, pagedc.runtime.server.launch, pagedc.runtime.server.served_model"
    assert modules_after(code, ("numpy", "llguidance", "rich")) == []


def test_the_runtime_imports_no_torch() -> None:
    code = """
import importlib, pkgutil, pagedc.runtime
for module in pkgutil.walk_packages(pagedc.runtime.__path__, "pagedc.runtime."):
    importlib.import_module(module.name)
"""
    assert modules_after(code, ("torch", "transformers")) == []


def test_public_names_are_lazy_and_whole() -> None:
    assert modules_after("import pagedc; pagedc.SamplingParams", ("torch", "transformers", "tornado")) == []
    assert [name for name in pagedc.__all__ if not hasattr(pagedc, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pagedc.nothing
