"""A result of the schema, to be changed by the tests."""

import copy

import pytest

from dicap import results as store

RESULT = {
    "schema": 1,
    "protocol": "base2new",
    "method": "CoOp",
    "backbone": "tiny",
    "recipe": "tiny",
    "dataset": "digits",
    "shots": 16,
    "seed": 1,
    "split": "base",
    "test_set": "test",
    "n": 10,
    "accuracy": 60.0,
    "macro_f1": 50.0,
    "groups": {},
    "seconds": {"train": 5.0, "test": 1.0},
    "resumed_from_epoch": 0,
    "peak_memory_mib": 100.0,
    "config": {"SEED": 1, "OUTPUT_DIR": "a", "OPTIM": {"LR": 0.1}},
    "digests": {"config": "c", "data": "d", "weights": "w", "model": "m"},
    "versions": {},
    "method_record": {},
    "status": "complete",
}


@pytest.fixture
def make_result():
    """make_result(seed=2, accuracy=70.0): a complete result with these fields."""

    def make(**fields):
        result = {**copy.deepcopy(RESULT), **fields}
        result["config"]["SEED"] = result["seed"]
        return result

    return make


@pytest.fixture
def put(tmp_path, make_result):
    """put(seed=2, accuracy=70.0, model="m", data="d", registered="EuroSAT"): written where its fields say; the folder."""

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
                for split, accuracy in (("base", 60.0), ("new", 50.0)):
                    folder = put(
                        method=method,
                        dataset=dataset,
                        seed=seed,
                        split=split,
                        model=f"{method}{seed}",
                        data=f"{dataset}{split}{seed}",
                        accuracy=accuracy + number * seed + 0.123,
                    )
    return folder
