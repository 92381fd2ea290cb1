"""`python -m pagedc.runtime.run_module MODULE …`: a module's `main`, imported without collecting garbage.

There is none: what is imported stays. Looking for it takes 8 % of an engine's imports.
"""

import gc
import importlib
import sys

# -P: a numpy.py in the working directory is not what is meant.
RUN_MODULE = (sys.executable, "-P", "-m", "pagedc.runtime.run_module")

if __name__ == "__main__":
    gc.disable()
    module = importlib.import_module(sys.argv.pop(1))
    gc.freeze()
    gc.enable()
    sys.exit(module.main())
