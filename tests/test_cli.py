"""The command line: dispatch, exit codes, one line for each mistake."""

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import pagedc
from pagedc.cli import COMMANDS, main


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pagedc", *words], capture_output=True, text=True, check=False
    )


def assert_one_line(stderr: str, *parts: str) -> None:
    assert stderr.startswith("pagedc: error: ")
    assert stderr.count("\n") == 1
    assert [part for part in parts if part not in stderr] == []


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [command for command in COMMANDS if f"  {command} " not in out] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pagedc {pagedc.__version__}\n"


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage:")


def test_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compil"]) == 2
    assert_one_line(capsys.readouterr().err, "'compil'", "compile", "serve")


def test_wrong_option_is_one_line() -> None:
    done = run("compile", "smollm2-135m", "--dtype", "float64")
    assert done.returncode == 2
    assert_one_line(done.stderr, "float64", "bfloat16", "pagedc compile --help")


def test_option_out_of_range_is_one_line() -> None:
    done = run("compile", "smollm2-135m", "--max-num-seqs", "0")
    assert done.returncode == 2
    assert_one_line(done.stderr, "max_num_seqs is 0")


def test_report_of_no_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nowhere.pagedc"]) == 4
    assert_one_line(capsys.readouterr().err, "nowhere.pagedc")


def test_report_of_a_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert main(["report", str(tmp_path / "text")]) == 4
    assert_one_line(capsys.readouterr().err, "text is not a package")


def test_files_that_cannot_be_used_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "x").touch()
    code = (
        "import sys; from pagedc.cli import main; "
        "code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "compile", "smollm2-135m", "-o"]
    done = subprocess.run([*words, tmp_path / "letters"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "letters: exists and is not a package")
    for others in (["/proc/x"], [tmp_path / "new", "--dump-ir", "/proc/x"]):
        done = subprocess.run([*words, *others], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert_one_line(done.stderr, "/proc/x: cannot be written")
    others = [tmp_path / "new", "--tuning", "/nowhere.json"]
    done = subprocess.run([*words, *others], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "/nowhere.json cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def test_without_triton_a_gpu_is_refused_in_one_line() -> None:
    code = (
        "import sys; import pagedc.compiler.targets as targets\n"
        "sys.modules['triton'] = None\n"  # what imports it fails
        "targets.find_spec = lambda name: None\n"
        "from pagedc.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "compile", "smollm2-135m", "--target", "cuda:sm_90", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert_one_line(done.stderr, "needs Triton: pip install triton")


def test_missing_compiler_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pagedc.cli.find_spec", lambda name: None)
    assert main(["compile", "smollm2-135m"]) == 4
    assert_one_line(capsys.readouterr().err, "torch", "pip install 'pagedc[compiler]'")


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pagedc.compiler.cli.main", interrupted)
    assert main(["compile", "smollm2-135m"]) == 130
    assert capsys.readouterr().err.strip() == "pagedc: interrupted"


def test_every_compile_option_has_a_flag_with_the_same_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import asdict

    from pagedc.compiler.api import CompileKeywords
    from pagedc.compiler.cli import parse
    from pagedc.compiler.options import CompileOptions, default_output

    arguments = vars(parse(["compile", "smollm2-135m"]))
    defaults = asdict(CompileOptions(model="smollm2-135m", output=default_output("smollm2-135m")))
    assert {name: arguments[name] for name in defaults if name != "output"} == {
        name: value for name, value in defaults.items() if name != "output"
    }
    assert set(get_type_hints(CompileKeywords)) == set(defaults) - {"model", "output"}
