import subprocess
import sys
from pathlib import Path

import pytest

from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.model_name import DEMO, model_path

REFUSE = """
import sys
from pagedc.compiler.cli import main
assert main(["compile", "no-such-model"]) == 2
assert "torch" not in sys.modules
"""


def test_what_lies_on_the_disk_is_a_path(tmp_path: Path) -> None:
    assert model_path(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", [DEMO, "owner/name"])
def test_what_is_fetched_is_none(model: str) -> None:
    assert model_path(model) is None


@pytest.mark.parametrize("model", ["", "no-such-model", "owner/name.gguf", "a/b/c", "/missing"])
def test_anything_else_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="smollm2-135m"):
        model_path(model)


def test_a_typo_is_refused_before_torch_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSE], capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
