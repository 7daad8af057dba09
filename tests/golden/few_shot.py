"""Makes few_shot.json: few-shot draws by CoOp's rule, on Python's own `random`, importing nothing of dicap.

    python tests/golden/few_shot.py > tests/golden/few_shot.json

Origin: DatasetBase.generate_fewshot_dataset of Dassl.pytorch (c61a1b5) as CoOp's datasets call it:
`random.seed(seed)`, train with n shots, val with min(n, 4), classes in the order of their first item.
"""

import json
import random

SIZES = {"train": 60, "val": 12}
cases = []
for shots, seed in ((1, 1), (4, 2), (16, 1), (16, 3), (32, 1)):
    random.seed(seed)
    drawn = {}
    for part, count in (("train", shots), ("val", min(shots, 4))):
        groups = {}
        for i in range(SIZES[part]):
            groups.setdefault(i * 7 % 3, []).append(f"{part}/{i}.png")
        drawn[part] = []
        for items in groups.values():
            drawn[part] += random.sample(items, count) if len(items) >= count else items
    cases.append({"shots": shots, "seed": seed, "drawn": drawn})
print(json.dumps({"made_by": "python tests/golden/few_shot.py", "sizes": SIZES, "cases": cases}, indent=1))
