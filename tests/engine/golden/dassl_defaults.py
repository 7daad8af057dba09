"""Writes dassl_defaults.json:  python tests/engine/golden/dassl_defaults.py .../Dassl.pytorch/dassl/config/defaults.py"""

import importlib.util
import json
import sys
from pathlib import Path


def flat(node, prefix=""):
    """{"A.B": [type, value]} of a nested configuration."""
    found = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, dict) else {path: [type(value).__name__, value]}
    return dict(sorted(found.items()))


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("defaults", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    golden = {
        "origin": "KaiyangZhou/Dassl.pytorch v0.6.3 (c61a1b5), dassl/config/defaults.py, by dassl_defaults.py",
        "defaults": flat(module._C),
    }
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in golden["defaults"].items())
    text = f'{{"origin": {json.dumps(golden["origin"])},\n "defaults": {{\n{lines}\n}}}}\n'
    Path(__file__).with_suffix(".json").write_text(text)
