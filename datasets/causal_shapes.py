"""CausalShapes: 50 classes of an image world whose causal graph is known (docs/world.md), written once.

Training and validation pictures show the scene that is tied to their class, test pictures any scene: "aligned" and
"conflicting" test pictures are reported apart. DATASET.CAUSALSHAPES.* are the knobs; each setting has its own folder.
Its domain shifts, test sets of the same classes: causal_shapes_scenes.py, causal_shapes_colours.py, causal_shapes_noise.py.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY

from dicap.datasets.base import FewShotDataset, Item, Items
from dicap.options import Option, default_section, read_options, section_name
from dicap.world import CLASSES, Knobs, data_root, do, read_manifest, rendered_truth, write_causal_shapes


@DATASET_REGISTRY.register()
class CausalShapes(FewShotDataset):
    split_file, embedded = "split.json", True
    licence = "MIT (generated here)"
    OPTIONS = {
        "RHO": Option(Knobs.rho, "how often a training picture shows its class's own scene; 0: by chance", least=0),
        "CONTRAST": Option(Knobs.contrast, "domain gap: contrast; the tiny CLIP's pretraining has 1", least=0),
        "NOISE": Option(Knobs.noise, "domain gap: sensor noise; the tiny CLIP's pretraining has 0.03", least=0),
        "PER_CLASS_TRAIN": Option(Knobs.per_class_train, "pool that the few shots are drawn from", least=1),
        "PER_CLASS_VAL": Option(Knobs.per_class_val, "pool of the validation shots", least=1),
        "PER_CLASS_TEST": Option(Knobs.per_class_test, "test pictures a class: 200 leave 0.7 points of error", least=1),
        "WORLD_SEED": Option(Knobs.seed, "another seed: other pictures of the same kind", least=0),
    }
    fixed: dict[str, Any] = {}  # knobs that are no setting

    def locate(self, cfg: Any) -> Path:
        name = section_name(type(self))
        section = getattr(cfg.DATASET, name, None) or default_section(self.OPTIONS)
        settings = vars(read_options(section, self.OPTIONS, f"DATASET.{name}"))
        knobs = Knobs(seed=settings.pop("world_seed"), **settings, **self.fixed)
        n = len(CLASSES)
        self.counts = n, n * knobs.per_class_train, n * knobs.per_class_val, n * knobs.per_class_test
        return write_causal_shapes(Path(cfg.DATASET.ROOT or data_root()).expanduser().absolute(), knobs)

    def group(self, items: Items) -> dict[Item, str]:
        groups = _groups(self.dataset_dir)
        return {item: groups[item[0]] for item in items}

    def counterfactual_images(self, impaths: list[str], names: list[str]) -> np.ndarray:
        """(B, 64, 64, 3) uint8: the pictures at impaths had their classes been `names`, all else the same."""
        return rendered_truth(self.dataset_dir, impaths, do({"class": np.array(names)}))


class ShiftedCausalShapes(CausalShapes):
    """What its domain shifts share: pictures of its test split with one factor changed, for testing only."""

    test_only = True
    fixed = {"per_class_train": 0, "per_class_val": 0}
    OPTIONS = {
        **{key: CausalShapes.OPTIONS[key] for key in ("CONTRAST", "NOISE", "WORLD_SEED")},
        "PER_CLASS_TEST": Option(40, "pictures a class, CausalShapes' first: 40 leave 1.1 points of error", least=1),
    }

    def read(self, cfg: Any) -> dict[str, Items]:
        """From the manifest: a split file would have to name training pictures."""
        rows = read_manifest(self.dataset_dir)
        return {"train": [], "val": [], "test": [(row["path"], row["latents"]["label"], row["class"]) for row in rows]}


@functools.lru_cache(maxsize=4)
def _groups(folder: str) -> dict[str, str]:
    """Path -> "aligned" where it shows its class's tied scene, else "conflicting". A folder's content never changes."""
    return {row["path"]: "aligned" if row["aligned"] else "conflicting" for row in read_manifest(folder)}
