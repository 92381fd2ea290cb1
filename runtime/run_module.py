"""`python -m pagedc.runtime.run_module MODULE …`: a module's `main`, imported without collecting garbage.

There is none: what is imported stays. Looking for it takes 8 % of an engine's imports.
"""

import gc
import importlib
import sys

if __name__ == "__main__":
    gc.disable()
    module = importlib.import_module(sys.argv.pop(1))
    gc.freeze()
    gc.enable()
    sys.exit(module.main())
