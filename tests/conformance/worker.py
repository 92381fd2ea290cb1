"""The process of one type: forked from one that has torch and transformers, in a group of its own."""

import json
import os
import traceback
from pathlib import Path

import torch
from tests.conformance.check import Outcome, check, one_line
from tests.conformance.shrink import default_config
from tests.quick_compiler import quick_compiler

import pagedc.compiler.compile  # noqa: F401  imported once, before the fork


def work(model_type: str, directory: Path) -> None:
    """Check one type and leave result.json."""
    os.setsid()  # its compiler ends with it
    torch.set_num_threads(1)
    os.environ["CXX"] = quick_compiler(directory)
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        outcome = check(model_type, directory)
    except Exception as error:  # the very thing that is counted
        frame = traceback.extract_tb(error.__traceback__)[-1]
        outcome = Outcome("failed", f"{one_line(error)} ({Path(frame.filename).name}:{frame.lineno})")
    result = {**outcome._asdict(), "kind": kind_of(model_type)}
    (directory / "result.json").write_text(json.dumps(result))


def kind_of(model_type: str) -> str:
    """What its default config says that it is."""
    config = default_config(model_type)
    if config.is_encoder_decoder:
        return "half of a sequence-to-sequence model"
    if getattr(config, "is_decoder", None) is False:
        return "encoder, checked with is_decoder=True"
    return "decoder"
