"""The family's entry point, with CoOp's flags: python train.py --trainer DiCap --config-file configs/trainers/..."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import dicap.cli  # noqa: E402

# from here on, `import datasets` is Hugging Face's and not this folder's; a spawned worker comes through here as well
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

if __name__ == "__main__":
    sys.exit(dicap.cli.main(default="train"))
