"""How near packages are to their model: `pagedc verify --json` of each, kept beside the machine.

python -m benchmarks.agreement [PACKAGE…] [--against MODEL]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import record
from benchmarks.decode import PACKAGES


def main() -> None:
    """Measure, print and write; exit code 5 where a package misses a floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, nargs="*", default=PACKAGES)
    parser.add_argument("--against", default="smollm2-135m")
    options = parser.parse_args()
    figures, worst = {}, 0
    for path in options.packages:
        command = ["verify", str(path), "--against", options.against, "--json"]
        done = subprocess.run([sys.executable, "-m", "pagedc", *command], stdout=subprocess.PIPE, check=False)
        worst = max(worst, done.returncode)
        if not done.stdout:
            sys.exit(done.returncode)
        found = json.loads(done.stdout)
        figures[path.name] = found
        print(
            f"{path.name:<32} {found['top1_agreement']:.2%} top-1, KL {found['mean_kl']:.6f}, "
            f"perplexity off by {found['perplexity_change']:.3%}"
        )
    record.write("verify-smollm2", {"packages": figures})
    sys.exit(worst)


if __name__ == "__main__":
    main()
