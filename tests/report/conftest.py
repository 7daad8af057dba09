"""Folders of results."""

import pytest

from dicap import results as store


@pytest.fixture
def put(tmp_path, make_result):
    """put(seed=2, value=70.0, model="m", data="d", registered="EuroSAT"): written where its fields say; the folder."""

    def write(model="m", data="d", registered="Digits", folder="", **fields):
        result = make_result(
            config={"DATASET": {"NAME": registered}},
            **{"digests": {"config": "c", "data": data, "weights": "w", "model": model}, **fields},
        )
        place = [
            str(result[key]).replace("/", "|")
            for key in ("protocol", "split", "dataset", "shots", "method", "recipe", "backbone", "seed")
        ]
        store.write_result(tmp_path.joinpath(folder, *place), result)
        return tmp_path

    return write


@pytest.fixture
def three_by_two(put):
    """Three methods on two datasets over three seeds, base to new; the folder."""
    for number, method in enumerate(("ZeroshotCLIP", "CoOp", "DiCap")):
        for dataset in ("causal_shapes", "digits"):
            for seed in (1, 2, 3):
                for split, value in (("base", 60.0), ("new", 50.0)):
                    folder = put(
                        method=method,
                        dataset=dataset,
                        seed=seed,
                        split=split,
                        model=f"{method}{seed}",
                        data=f"{dataset}{split}{seed}",
                        value=value + number * seed + 0.123,
                    )
    return folder
