"""CausalShapes, the embedded image world with a known causal graph, and the tiny CLIP's pretraining.

from dicap import world
latents = world.sample(8, seed=3)                                             # (8,) records
pictures = world.render(latents)                                              # (8, 64, 64, 3) uint8
truth = world.counterfactual(latents, world.do({"class": "striped star"}))    # same scene, colour, pose and noise

The lists of patterns, shapes, scenes and colours are in dicap.world.causal.

python -m dicap.world pretrain --out FILE | evaluate
"""

from dicap.world.causal import CLASSES, LATENTS, TIED_SCENE, VALUES, confound, do, intervene, sample, shift  # noqa: F401
from dicap.world.files import (  # noqa: F401
    Knobs,
    data_root,
    latents_of,
    read_knobs,
    read_manifest,
    rendered_truth,
    write_causal_shapes,
    write_digits,
)
from dicap.world.render import DOWNSTREAM, NOISY, PRETRAIN, Domain, counterfactual, object_mask, render  # noqa: F401
