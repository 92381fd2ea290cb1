"""The text of model.py and rows.py: as it was reviewed.

`PAGEDC_ACCEPT=1 pytest tests/compiler/targets/cuda/test_emit.py` rewrites what is expected; the diff is for a
person.
"""

import ast
import os
from pathlib import Path

import pytest
from tests.compiler.families import make_config

from pagedc.compiler.lower import lower
from pagedc.compiler.passes import run_passes
from pagedc.compiler.program import Program
from pagedc.compiler.targets.base import Facts
from pagedc.compiler.targets.cuda.configs import Configs
from pagedc.compiler.targets.cuda.emit import emit
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.row_printer import print_body
from pagedc.compiler.targets.cuda.rows_file import print_file
from pagedc.compiler.trace import trace
from pagedc.runtime.manifest import Limits

EXPECTED = Path(__file__).with_name("expected")
LIMITS = Limits(max_model_len=256, max_num_seqs=4, max_num_batched_tokens=32)


def program_of(name: str) -> Program:
    graph = trace(make_config(name))
    run_passes(graph, lambda node: "bf16")
    return lower(graph, print_body)


def emitted(name: str) -> dict[str, str]:
    program = program_of(name)
    kernels = Kernels(
        program, Facts(f"small {name}", "0.0.0", "bfloat16", LIMITS, "bfloat16"), Configs(), pdl=True
    )
    return {
        "model": emit(program, kernels, "sm_90", 0, 0),
        "rows": print_file(kernels.printed.values()),
    }


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_is_as_expected(name: str) -> None:
    for part, text in emitted(name).items():
        path = EXPECTED / f"{name}.{part}.expected"
        if os.environ.get("PAGEDC_ACCEPT") == "1":
            EXPECTED.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()
        ast.parse(text)
