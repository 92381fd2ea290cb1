import os
import subprocess
import sys
from pathlib import Path


def test_a_module_is_run_with_its_words_and_garbage_is_collected(tmp_path: Path) -> None:
    code = "import gc, sys\nwas = gc.isenabled()\ndef main():\n    print(was, gc.isenabled(), sys.argv[1:])\n"
    (tmp_path / "told.py").write_text(code + "    return 3\n")
    command = [sys.executable, "-P", "-m", "pagedc.runtime.run_module", "told", "4", "2.0"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("False True ['4', '2.0']\n", 3)
