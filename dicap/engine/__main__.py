"""python -m dicap.engine SCRIPT [ARGUMENT ...]: another repository's script, unmodified, on the built-in engine."""

import os
import sys

from dicap.engine import script

_USAGE = """usage: python -m dicap.engine SCRIPT [ARGUMENT ...]

Runs a script that imports dassl (CoOp's train.py, say), as it is, on DiCap's built-in engine.
Its own folder comes first on the path, so that it finds its own datasets/, trainers/ and clip/."""

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    if not os.path.isfile(sys.argv[1]):
        sys.exit(f"python -m dicap.engine: no script at {sys.argv[1]}")
    sys.argv = sys.argv[1:]
    script.run()
