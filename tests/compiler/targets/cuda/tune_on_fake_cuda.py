"""pagedc with few candidates and so many seconds of timing: `python tune_on_fake_cuda.py SECONDS WORDS…`."""

import sys
from dataclasses import replace

from pagedc.compiler.cli import main
from pagedc.compiler.targets.cuda import candidates, tune
from pagedc.compiler.tuning import BUDGETS

if __name__ == "__main__":
    BUDGETS["quick"] = float(sys.argv[1])
    tune.ARENA_BYTES = 1 << 20
    tune.COMPILE_SECONDS["quick"] = tune.START_SECONDS = 600
    for name, space in candidates.SPACES.items():
        candidates.SPACES[name] = replace(space, quick=(6, 1) if name == "attention_prefill" else (1, 2))
    sys.exit(main(sys.argv[2:]))
