"""Makes world.json: latents, coarse pictures and scenes of CausalShapes, as the published world draws them.

    python tests/golden/world.py > tests/golden/world.json

Run it again only together with a new dicap.world.files.VERSION: reported numbers rest on these pictures.
"""

import json

from dicap import world
from dicap.world.textures import tiles

INDEX, SEED = [0, 1, 1234, 10**9], 2507
latents = world.sample(INDEX, SEED)
out = {
    "made_by": "python tests/golden/world.py",
    "index": INDEX,
    "seed": SEED,
    "latents": {name: latents[name].tolist() for name in world.LATENTS.names},
}
for domain in ("PRETRAIN", "DOWNSTREAM"):
    blocks = world.render(latents, getattr(world, domain)).reshape(-1, 8, 8, 8, 8, 3).mean((2, 4))
    out[domain] = blocks.round(2).tolist()
scenes = 255 * tiles()
out["scenes"] = [[row.mean((1, 2)).round(2).tolist(), row.std((1, 2)).round(2).tolist()] for row in scenes]
print(json.dumps(out))
