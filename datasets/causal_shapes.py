"""CausalShapes: 50 classes of an image world whose causal graph is known (docs/world.md), written once.

Training and validation pictures show the scene that is tied to their class, test pictures any scene: "aligned" and
"conflicting" test pictures are reported apart. DATASET.CAUSALSHAPES.* are the knobs; each setting has its own folder.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY

from dicap.data.split import Item, Items
from dicap.datasets.base import FewShotDataset
from dicap.options import Option, default_section, read_options
from dicap.world import CLASSES, Knobs, data_root, do, read_manifest, rendered_truth, write_causal_shapes


@DATASET_REGISTRY.register()
class CausalShapes(FewShotDataset):
    split_file = "split.json"
    template = "a photo of a {}."
    OPTIONS = {
        "RHO": Option(Knobs.rho, "how often a training picture shows its class's own scene; 0: by chance", least=0),
        "CONTRAST": Option(Knobs.contrast, "domain gap: contrast; the tiny CLIP's pretraining has 1", least=0),
        "NOISE": Option(Knobs.noise, "domain gap: sensor noise; the tiny CLIP's pretraining has 0.03", least=0),
        "PER_CLASS_TRAIN": Option(Knobs.per_class_train, "pool that the few shots are drawn from", least=1),
        "PER_CLASS_VAL": Option(Knobs.per_class_val, "pool of the validation shots", least=1),
        "PER_CLASS_TEST": Option(Knobs.per_class_test, "test pictures a class: 200 leave 0.7 points of error", least=1),
        "WORLD_SEED": Option(Knobs.seed, "another seed: other pictures of the same kind", least=0),
    }

    def locate(self, cfg: Any) -> Path:
        section = getattr(cfg.DATASET, "CAUSALSHAPES", None) or default_section(self.OPTIONS)
        o = read_options(section, self.OPTIONS, "DATASET.CAUSALSHAPES")
        sizes = o.per_class_train, o.per_class_val, o.per_class_test
        self.counts = (len(CLASSES), *(len(CLASSES) * size for size in sizes))
        knobs = Knobs(o.rho, o.contrast, o.noise, *sizes, o.world_seed)
        return write_causal_shapes(Path(cfg.DATASET.ROOT or data_root()).expanduser().absolute(), knobs)

    def group(self, test: Items) -> dict[Item, str]:
        aligned = _aligned(self.dataset_dir)
        return {item: "aligned" if aligned[item[0]] else "conflicting" for item in test}

    def counterfactual_images(self, impaths: list[str], names: list[str]) -> np.ndarray:
        """(B, 64, 64, 3) uint8: the pictures at impaths had their classes been `names`, all else the same."""
        return rendered_truth(self.dataset_dir, impaths, do({"class": np.array(names)}))


@functools.lru_cache(maxsize=4)
def _aligned(folder: str) -> dict[str, bool]:
    """Path -> whether the picture shows its class's tied scene. A folder's name tells its content: it never changes."""
    return {record["path"]: record["aligned"] for record in read_manifest(folder)}
