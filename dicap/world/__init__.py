"""CausalShapes, the embedded image world with a known causal graph, and the tiny CLIP's pretraining.

from dicap import world
latents = world.sample(8, seed=3)                                             # (8,) records
pictures = world.render(latents)                                              # (8, 64, 64, 3) uint8
truth = world.counterfactual(latents, world.do({"class": "striped star"}))    # same scene, colour, pose and noise

python -m dicap.world grid FILE | shifts FILE | pretrain --out FILE | evaluate
"""

from dicap.world.causal import (
    CLASSES,
    COLOURS,
    LATENTS,
    PATTERNS,
    SCENES,
    SHAPES,
    TIED_SCENE,
    UNSEEN_COLOURS,
    UNSEEN_SCENES,
    confound,
    do,
    intervene,
    sample,
    shift,
)
from dicap.world.files import (
    Knobs,
    data_root,
    latents_of,
    read_knobs,
    read_manifest,
    rendered_truth,
    write_causal_shapes,
    write_digits,
)
from dicap.world.render import DOWNSTREAM, NOISY, PRETRAIN, Domain, counterfactual, object_mask, render

__all__ = [
    "CLASSES",
    "COLOURS",
    "DOWNSTREAM",
    "LATENTS",
    "NOISY",
    "PATTERNS",
    "PRETRAIN",
    "SCENES",
    "SHAPES",
    "TIED_SCENE",
    "UNSEEN_COLOURS",
    "UNSEEN_SCENES",
    "Domain",
    "Knobs",
    "confound",
    "counterfactual",
    "data_root",
    "do",
    "intervene",
    "latents_of",
    "object_mask",
    "read_knobs",
    "read_manifest",
    "render",
    "rendered_truth",
    "sample",
    "shift",
    "write_causal_shapes",
    "write_digits",
]
