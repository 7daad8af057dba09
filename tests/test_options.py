"""Settings: coercion, refusal with the nearest key, checks."""

import pytest
from yacs.config import CfgNode

from dicap.options import ConfigError, Option, coerce, default_section, merge_file, merge_list, read_options


def cfg():
    return CfgNode(
        {
            "OPTIM": {"LR": 0.1, "MAX_EPOCH": 5},
            "INPUT": {"SIZE": (224, 224), "TRANSFORMS": ()},
            "USE": True,
            "NAME": "",
            "LIST": [1.0],
        }
    )


@pytest.mark.parametrize(
    "value, default, expected",
    [
        (1, 0.5, 1.0),
        ("1", 0.5, 1.0),
        ("1e-5", 0.5, 1e-5),
        ("false", True, False),
        ("True", False, True),
        ("(64, 64)", (1, 1), (64, 64)),
        ([1, 2], (0,), (1, 2)),
        ((1.0,), [0.0], [1.0]),
        ("7", 1, 7),
        ("a photo of a", "", "a photo of a"),
        ("'a b'", "", "a b"),
        ("7", "", "7"),
        ("7", None, "7"),
        (3, None, 3),
    ],
)
def test_coerce(value, default, expected):
    got = coerce(value, default, "KEY")
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize("value, default", [(True, 1), (1, True), (1.5, 1), ("x", 1), (5, ""), ([1], 1), ("yes", True)])
def test_coerce_refuses_what_would_change_the_meaning(value, default):
    with pytest.raises(ConfigError, match="KEY is .*expected"):
        coerce(value, default, "KEY")


def test_merge_file_then_list(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text('OPTIM:\n  LR: 1\n  MAX_EPOCH: 7\nINPUT:\n  SIZE: (64, 64)\n  TRANSFORMS: ["a", "b"]\n')
    c = cfg()
    merge_file(c, str(path))
    merge_list(c, ["OPTIM.LR", "1e-5", "USE", "false", "NAME", "x"])
    assert (c.OPTIM.LR, c.OPTIM.MAX_EPOCH, c.INPUT.SIZE, c.INPUT.TRANSFORMS, c.USE, c.NAME) == (
        1e-5,
        7,
        (64, 64),
        ("a", "b"),
        False,
        "x",
    )


@pytest.mark.parametrize(
    "text, told",
    [
        ("OPTIM:\n  LRR: 1\n", r"unknown key OPTIM.LRR; did you mean OPTIM.LR\?"),
        ("OPTIM: 5\n", "OPTIM is a section; give one of its keys: LR, MAX_EPOCH"),
        ("- 1\n", "holds a list"),
        ("OPTIM: [\n", "is not YAML"),
        ("USE: 3\n", "USE is 3 .*expected bool"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, text, told):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as error:
        merge_file(cfg(), str(path))
    assert "bad.yaml" in str(error.value)


def test_missing_file_and_odd_list():
    with pytest.raises(ConfigError, match="config file not found: nowhere.yaml"):
        merge_file(cfg(), "nowhere.yaml")
    with pytest.raises(ConfigError, match="'USE' has no partner"):
        merge_list(cfg(), ["NAME", "x", "USE"])


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f'NAME: !!python/object/apply:os.system ["touch {tmp_path}/ran"]\n')
    with pytest.raises(ConfigError, match="evil.yaml is not YAML"):
        merge_file(cfg(), str(path))
    assert not (tmp_path / "ran").exists()


def test_read_options_checks_choices_bounds_and_presence():
    options = {"MODE": Option("a", "why", ("a", "b")), "N": Option(2, "why", least=1, most=3), "X": Option(0.5, "why")}
    section = default_section(options)
    assert vars(read_options(section, options, "T.X")) == {"mode": "a", "n": 2, "x": 0.5}
    section.MODE = "c"
    with pytest.raises(ConfigError, match="T.X.MODE is 'c'; allowed: 'a', 'b'"):
        read_options(section, options, "T.X")
    section.MODE, section.N = "a", 0
    with pytest.raises(ConfigError, match="T.X.N is 0; the least allowed is 1"):
        read_options(section, options, "T.X")
    section.N = 4
    with pytest.raises(ConfigError, match="T.X.N is 4; the most allowed is 3"):
        read_options(section, options, "T.X")
    for value in (float("nan"), float("inf"), "1e999"):
        section.N, section.X = 1, value
        with pytest.raises(ConfigError, match="T.X.X is (nan|inf); expected a finite number"):
            read_options(section, options, "T.X")
    del section["N"]
    with pytest.raises(ConfigError, match="T.X.N is missing"):
        read_options(section, options, "T.X")
