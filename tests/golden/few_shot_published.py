"""Makes few_shot_published.json: class sizes and digests of few-shot samples that others published. Imports nothing of dicap.

    git clone https://github.com/linzhiqiu/cross_modal_adaptation CLONE
    python tests/golden/few_shot_published.py CLONE > tests/golden/few_shot_published.json

Origin: indices/<dataset>/shot_<n>-seed_<s>.json of that repository (Lin et al. 2023, arXiv 2301.06267; MIT licence), drawn
by CoOp's protocol from CoOp's splits: for ten datasets, 1, 2, 4, 8 and 16 shots and seeds 1, 2 and 3, the positions of the
samples in the split's train and val lists, in order. Nothing of these files is kept but a SHA-256 of the positions.

Both lists hold one class after the other, so a draw is decided by the classes' sizes in that order. They are taken from
splits/split_zhou_*.json of the repository where the clone has the file, and inferred from the positions for all: the sizes
for which random.sample gives every published position of every class, in all 15 files, and which sum to the size of the
part. The script stops where there is more than one solution, and where the split file says otherwise.
"""

import hashlib
import itertools
import json
import random
import re
import sys
from pathlib import Path

DATASETS = {  # train and val of the published split, name in its file's name
    "caltech101": (4128, 1649, "Caltech101"),
    "dtd": (2820, 1128, "DescribableTextures"),
    "eurosat": (13500, 5400, "EuroSAT"),
    "fgvc_aircraft": (3334, 3333, None),
    "food101": (50500, 20200, "Food101"),
    "oxford_flowers": (4093, 1633, "OxfordFlowers"),
    "oxford_pets": (2944, 736, "OxfordPets"),
    "stanford_cars": (6509, 1635, "StanfordCars"),
    "sun397": (15880, 3970, "SUN397"),
    "ucf101": (7639, 1898, "UCF101"),
}
RUNS = list(itertools.product((1, 2, 4, 8, 16), (1, 2, 3)))


def positions(clone: Path, name: str) -> dict:
    """(shots, seed) -> {"train": ..., "val": ...}: for each class in order its positions."""
    out = {}
    for shots, seed in RUNS:
        tree = json.loads((clone / f"indices/{name}/shot_{shots}-seed_{seed}.json").read_text())
        out[shots, seed] = {}
        for part in ("train", "val"):
            pairs = zip((row["label"] for row in tree[part]["data"]), tree[part]["indices"])
            groups = [[i for _, i in group] for _, group in itertools.groupby(pairs, key=lambda pair: pair[0])]
            out[shots, seed][part] = groups
    return out


def inferred(published: dict, totals: dict[str, int]) -> dict[str, list[int]]:
    """Sizes of the classes in order, from the positions and the size of each part; another solution stops the script.

    Sizes of one bit length often give the same sample, so that a class alone leaves several: what the next classes and the
    size of the part rule out goes.
    """
    open_ends = [([], {run: random.Random(run[1]).getstate() for run in RUNS})]  # sizes so far, generators behind them
    sizes: dict[str, list[int]] = {}
    for part in ("train", "val"):
        for k in range(len(published[RUNS[0]][part])):
            groups, later = ({run: published[run][part][k : k + 1] for run in RUNS} for k in (k, k + 1))
            most = min((min(group[0]) for group in later.values() if group), default=totals[part])
            firsts = {run: group[0] for run, group in groups.items()}
            open_ends = [end for some, states in open_ends for end in extended(some, states, firsts, part, most)]
        open_ends = [(some, states) for some, states in open_ends if sum(some) == totals[part]]
        if len(open_ends) != 1:
            raise SystemExit(f"{part}: {len(open_ends)} solutions instead of one")
        sizes[part], states = open_ends[0]
        open_ends = [([], states)]
    return sizes


def extended(some: list[int], states: dict, groups: dict, part: str, most: int) -> list[tuple[list[int], dict]]:
    """The ways to go on with the next class: every size that gives its positions in all 15 files and ends before `most`."""
    out, start = [], sum(some)
    for n in range(max(map(max, groups.values())) - start + 1, most - start + 1):
        after = {}
        for run in RUNS:
            after[run] = behind(n, run, part, [i - start for i in groups[run]], states[run])
            if after[run] is None:
                break
        else:
            out.append(([*some, n], after))
    return out


def behind(n: int, run: tuple[int, int], part: str, group: list[int], state: tuple) -> tuple | None:
    """The generator's state behind the draw of a class of n items, None where the draw is not `group`."""
    count = run[0] if part == "train" else min(run[0], 4)
    rng = random.Random()
    rng.setstate(state)
    drawn = rng.sample(range(n), count) if n >= count else list(range(n))
    return rng.getstate() if drawn == group else None


def from_split(file: Path) -> dict[str, list[int]] | None:
    """Sizes of the classes in order, from a split file; None where the clone lacks it."""
    try:
        tree = json.loads(file.read_text())
    except OSError:
        return None
    return {
        part: [len(list(group)) for _, group in itertools.groupby(row[1] for row in tree[part])]
        for part in ("train", "val")
    }


def split_digest(file: Path) -> str:
    """SHA-256 over the items of a split file in order, however the file is laid out: copies differ in their last byte."""
    tree = json.loads(file.read_text())
    return hashlib.sha256(json.dumps([tree[part] for part in ("train", "val", "test")]).encode()).hexdigest()


def digest(groups: dict) -> str:
    """SHA-256 of "1,5,3;2,4": train positions, then val positions."""
    text = ";".join(",".join(str(i) for group in groups[part] for i in group) for part in ("train", "val"))
    return hashlib.sha256(text.encode()).hexdigest()


def class_names(clone: Path, name: str) -> list[str]:
    tree = json.loads((clone / f"indices/{name}/shot_1-seed_1.json").read_text())
    return [name for _, name in sorted({(row["label"], row["classname"]) for row in tree["train"]["data"]})]


def golden(clone: Path, name: str, train: int, val: int, split: str | None) -> dict:
    published = positions(clone, name)
    sizes = inferred(published, {"train": train, "val": val})
    file = clone / f"splits/split_zhou_{split}.json"
    known = from_split(file) if split else None
    if known not in (None, sizes):
        raise SystemExit(f"{name}: the sizes inferred from the positions are not those of {file}")
    return {
        "sizes_from": "positions" if known is None else f"positions and splits/{file.name}, which agree",
        "split_digest": split_digest(file) if known else None,
        "names_sha256": hashlib.sha256("\n".join(class_names(clone, name)).encode()).hexdigest(),
        "sizes": {part: some[0] if len(set(some)) == 1 else some for part, some in sizes.items()},
        "classes": len(sizes["train"]),
        "drawn": {f"shot_{shots}-seed_{seed}": digest(published[shots, seed]) for shots, seed in RUNS},
    }


if __name__ == "__main__":
    clone = Path(sys.argv[1])
    out = {
        "origin": "https://github.com/linzhiqiu/cross_modal_adaptation",
        "commit": "ac9077ee4e422f768c9b9109551468605e33ec9a",
        "licence": "MIT (Copyright 2022 linzhiqiu)",
        "made_by": "python tests/golden/few_shot_published.py CLONE",
        "datasets": {name: golden(clone, name, *facts) for name, facts in DATASETS.items()},
    }
    print(re.sub(r"\[[\d,\s]+\]", lambda match: " ".join(match[0].split()), json.dumps(out, indent=1)))
