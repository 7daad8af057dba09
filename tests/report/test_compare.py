"""Paired comparisons: units, intervals against scipy, wins; only whole results over equal data."""

import pytest
from scipy import stats

from dicap.report.compare import paired_sheets
from dicap.report.sheet import markdown
from dicap.report.table import gather
from dicap.results import ResultError

CODA = {"a": [3.0, 1.0, 2.0], "b": [-1.0, 0.0, -2.0], "c": [4.0, 4.5, 5.0]}  # DiCap minus CoOp, by seed


@pytest.fixture
def two(put):
    """Few-shot results of CoOp and DiCap on three datasets over three seeds; the folder."""
    for dataset, gains in CODA.items():
        for seed, gain in enumerate(gains, 1):
            for method, more in (("CoOp", 0.0), ("DiCap", gain)):
                folder = put(
                    protocol="few_shot",
                    split="all",
                    method=method,
                    dataset=dataset,
                    seed=seed,
                    value=50.0 + 7 * seed + more,
                    data=f"{dataset}{seed}",
                )
    return folder


def rows(folder, *compare):
    (sheet,) = paired_sheets(gather(folder)[0], compare)
    return {(row["comparison"], row["measure"], row["dataset"]): row for row in sheet.rows}, sheet


def test_a_dataset_over_its_seeds_and_all_over_their_means(two):
    found, sheet = rows(two)
    for dataset, gains in CODA.items():
        low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
        gain = found["DiCap − CoOp", "Accuracy", dataset]["difference"]
        assert (gain.mean, gain.low, gain.high, gain.n) == pytest.approx((sum(gains) / 3, low, high, 3))
    means = [sum(gains) / 3 for gains in CODA.values()]
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    overall = found["DiCap − CoOp", "Accuracy", "overall"]
    assert (overall["difference"].low, overall["difference"].high) == pytest.approx(
        (low, high)
    )  # 3 datasets, not 9 pairs
    assert (overall["n"], overall["unit"], overall["wins"], overall["ties"], overall["losses"]) == (
        3,
        "datasets",
        2,
        0,
        1,
    )
    b = found["DiCap − CoOp", "Accuracy", "b"]
    assert (b["wins"], b["ties"], b["losses"], b["unit"]) == (0, 1, 2, "seeds")
    assert "| -1.00 [-3.48, +1.48] | 0 | 1 | 2 | 3 | seeds |" in markdown(sheet) and not sheet.problems


def test_base_new_and_h_of_each_seed(three_by_two):
    found, _ = rows(three_by_two)
    row = found["DiCap − CoOp", "H", "digits"]

    def h(base, new):
        return 2 * base * new / (base + new)

    gains = [h(60.123 + 2 * s, 50.123 + 2 * s) - h(60.123 + s, 50.123 + s) for s in (1, 2, 3)]
    assert row["difference"].mean == pytest.approx(sum(gains) / 3)
    assert found["DiCap − CoOp", "Base", "digits"]["difference"].mean == pytest.approx(2.0)
    assert {key[0] for key in found} == {"DiCap − ZeroshotCLIP", "DiCap − CoOp"}


def test_two_methods_of_ones_choice(three_by_two):
    found, _ = rows(three_by_two, "coop", "ZeroshotCLIP")
    assert {key[0] for key in found} == {"CoOp − ZeroshotCLIP"}
    with pytest.raises(ResultError, match="--compare Nothing: .*ZeroshotCLIP, CoOp, DiCap"):
        rows(three_by_two, "CoOp", "Nothing")
    for pair in (("CoOp", "CoOp"), ("CoOp", "DiCap (other)")):
        with pytest.raises(ResultError, match="no two different lines"):
            rows(three_by_two, *pair)


def test_a_result_that_does_not_say_what_its_prompt_was_trained_on(put):
    """Such as one of train.py by hand, from an older version."""
    for method in ("CoOp", "DiCap"):
        put(protocol="cross_dataset", split="all", method=method)
        folder = put(protocol="cross_dataset", split="all", method=method, dataset="b", trained_on="a")
    found, _ = rows(folder)
    assert {key[2] for key in found} == {"b", "digits"}


def test_other_data_are_not_compared_and_nothing_is_overall(two, put):
    put(protocol="few_shot", split="all", method="CoOp", dataset="b", seed=2, value=64.0, data="other")
    found, sheet = rows(two)
    assert all(found["DiCap − CoOp", "Accuracy", name]["difference"] == "incomplete" for name in ("b", "overall"))
    assert found["DiCap − CoOp", "Accuracy", "a"]["n"] == 3
    assert sheet.problems == ("few_shot, 16 shots, DiCap − CoOp on b: the data differ for seed 2",)


def test_a_seed_or_dataset_of_one_method_alone_is_named(two, put):
    put(protocol="few_shot", split="all", method="DiCap", dataset="a", seed=4, data="a4")
    put(protocol="few_shot", split="all", method="CoOp", dataset="d", seed=1, data="d1")
    found, sheet = rows(two)
    assert found["DiCap − CoOp", "Accuracy", "a"]["difference"] == "incomplete"
    assert [problem.split(" on ")[1][0] for problem in sheet.problems] == ["a", "d"]


def test_one_pair_has_a_difference_and_no_interval(put):
    put(protocol="few_shot", split="all", method="CoOp", value=50.0)
    found, sheet = rows(put(protocol="few_shot", split="all", method="DiCap", value=52.5))
    assert found["DiCap − CoOp", "Accuracy", "digits"]["difference"] == 2.5 and "| +2.50 | 1 | 0 | 0 | 1 |" in markdown(
        sheet
    )


def test_half_a_result_a_doubled_one_and_unequal_settings_do_not_count(three_by_two, put):
    put(method="CoOp", dataset="digits", seed=2, split="new", model="another", data="digitsnew2")
    found, sheet = rows(three_by_two)
    assert found["DiCap − CoOp", "H", "digits"]["difference"] == "incomplete" and "seed 2" in sheet.problems[0]
    put(
        method="CoOp",
        dataset="causal_shapes",
        seed=1,
        split="new",
        model="CoOp1",
        data="causal_shapesnew1",
        folder="twice",
    )
    put(method="ZeroshotCLIP", dataset="digits", seed=1, model="ZeroshotCLIP1", data="digitsbase1", registered="Other")
    found, _ = rows(three_by_two)
    assert found["DiCap − CoOp", "H", "causal_shapes"]["difference"] == "incomplete"
    assert found["DiCap − ZeroshotCLIP", "H", "digits"]["difference"] == "incomplete"


def test_shots_are_compared_apart(two, put):
    for method, value in (("CoOp", 10.0), ("DiCap", 30.0)):
        put(protocol="few_shot", split="all", method=method, dataset="a", shots=1, value=value)
    (sheet,) = paired_sheets(gather(two)[0])
    assert [(row["shots"], row["dataset"]) for row in sheet.rows] == [
        (1, "a"),
        (16, "a"),
        (16, "b"),
        (16, "c"),
        (16, "overall"),
    ]


def test_one_method_alone_compares_with_nothing(put):
    assert paired_sheets(gather(put())[0]) == []


def pairs_of(put, *compare):
    for method in ("CoOp", "CLIPAdapter", "DiCap:CoOp", "DiCap:CoOp+FeatureMap"):
        for seed in (1, 2):
            folder = put(protocol="few_shot", split="all", method=method, seed=seed)
    return list(dict.fromkeys(row["comparison"] for row in rows(folder, *compare)[1].rows))


def test_every_pair_of_dicap_is_compared_with_every_other_method(put):
    ours, others = ("DiCap:CoOp", "DiCap:CoOp+FeatureMap"), ("CoOp", "CLIPAdapter")
    assert pairs_of(put) == [f"{one} − {other}" for one in ours for other in others]


@pytest.mark.parametrize(
    "compare, found",
    [
        (("DiCap", "CoOp"), ["DiCap:CoOp − CoOp", "DiCap:CoOp+FeatureMap − CoOp"]),
        (("dicap:coop", "CLIPAdapter"), ["DiCap:CoOp − CLIPAdapter"]),
        (("DiCap:CoOp+FeatureMap (tiny)", "DiCap:CoOp"), []),
        (("DiCap:CoOp+FeatureMap", "DiCap:CoOp"), ["DiCap:CoOp+FeatureMap − DiCap:CoOp"]),
    ],
)
def test_a_name_stands_for_a_method_or_for_all_of_a_trainer(put, compare, found):
    if found:
        assert pairs_of(put, *compare) == found
    else:
        with pytest.raises(ResultError, match="no two different lines"):
            pairs_of(put, *compare)


def test_two_sources_are_compared_apart(put):
    """Each with its own rows, named by the source, and its own picture."""
    for source, gain in (("a", 1.0), ("b", 5.0)):
        for method in ("CoOp", "DiCap"):
            for seed in (1, 2):
                common = {"split": "all", "method": method, "seed": seed, "model": f"{source}{seed}", "folder": source}
                value = 50.0 + seed + (gain if method == "DiCap" else 0.0)
                folder = put(protocol="cross_dataset", dataset="t", trained_on=source, value=value, **common)
    (sheet,) = paired_sheets(gather(folder)[0])
    found = {row["protocol"]: row["difference"].mean for row in sheet.rows}
    assert found == pytest.approx({"cross_dataset from a": 1.0, "cross_dataset from b": 5.0})
    assert [plot.series["DiCap − CoOp"][0].mean for plot in sheet.plots] == pytest.approx([1.0, 5.0])
