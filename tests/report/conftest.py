"""A result of the schema, to be changed by the tests."""
import copy

import pytest

RESULT = {
    "schema": 1, "protocol": "base2new", "method": "CoOp", "backbone": "tiny", "recipe": "tiny", "dataset": "digits",
    "shots": 16, "seed": 1, "split": "base", "test_set": "test", "n": 10, "accuracy": 60.0, "macro_f1": 50.0,
    "groups": {}, "seconds": {"train": 5.0, "test": 1.0}, "resumed_from_epoch": 0, "peak_memory_mib": 100.0,
    "config": {"SEED": 1, "OUTPUT_DIR": "a", "OPTIM": {"LR": 0.1}},
    "digests": {"config": "c", "data": "d", "weights": "w", "model": "m"}, "versions": {}, "method_record": {},
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
