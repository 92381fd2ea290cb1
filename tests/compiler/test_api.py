"""pagedc.compile: options become CompileOptions before anything heavy is imported."""

from pathlib import Path

import pytest

import pagedc
from pagedc.compiler.errors import OptionError


def test_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"no option 'max_seq_len'.*max_model_len"):
        pagedc.compile("smollm2-135m", max_seq_len=3)  # type: ignore[call-arg]


def test_wrong_value_is_refused_at_the_door() -> None:
    with pytest.raises(OptionError, match="threads is 0"):
        pagedc.compile("smollm2-135m", threads=0)


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pagedc.compiler.errors.CheckpointError, match="nowhere"):
        pagedc.compile(tmp_path / "nowhere", tmp_path / "out.pagedc")
