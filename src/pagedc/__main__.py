"""`python -m pagedc`: the same as `pagedc`."""

import sys

from pagedc.cli import main

sys.exit(main())
