"""Keys and defaults are Dassl's; YAML of the family merges."""

import json
from pathlib import Path

import pytest
from dassl.config import clean_cfg, get_cfg_default

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dassl_defaults.json").read_text())["defaults"]


def flat(node, prefix=""):
    found = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_every_key_default_and_type_is_dassls():
    ours = flat(get_cfg_default())
    assert {key: [type(value).__name__, json.loads(json.dumps(value))] for key, value in ours.items()} == GOLDEN


def test_each_configuration_is_a_fresh_one():
    cfg = get_cfg_default()
    cfg.INPUT.PIXEL_MEAN.append(0)
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 7
    assert get_cfg_default().INPUT.PIXEL_MEAN == [0.485, 0.456, 0.406]
    assert get_cfg_default().DATALOADER.TRAIN_X.BATCH_SIZE == cfg.DATALOADER.TRAIN_U.BATCH_SIZE == 32


def test_yaml_writes_tuples_as_strings_and_unknown_keys_are_refused(tmp_path):
    cfg = get_cfg_default()
    (tmp_path / "a.yaml").write_text('INPUT:\n  SIZE: (64, 64)\n  TRANSFORMS: ["random_flip", "normalize"]\n')
    cfg.merge_from_file(str(tmp_path / "a.yaml"))
    assert cfg.INPUT.SIZE == (64, 64) and tuple(cfg.INPUT.TRANSFORMS) == ("random_flip", "normalize")
    with pytest.raises((KeyError, AssertionError), match="INPUT.SIZES"):
        cfg.merge_from_list(["INPUT.SIZES", "1"])


def test_clean_cfg_leaves_one_trainer():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert list(cfg.TRAINER) == ["NAME", "FIXMATCH"]
