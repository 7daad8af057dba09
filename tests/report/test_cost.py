"""Costs: what is averaged, summed and taken as a maximum, and that a resumed training has no seconds."""

import pytest

from dicap.report.cost import cost_sheets
from dicap.report.table import gather

CPU = {"device": "cpu", "threads": 2}


def test_a_row_a_method_dataset_and_device(put):
    for seed, train in ((1, 10.0), (2, 14.0)):
        put(
            seed=seed,
            seconds={"train": train, "test": 1.0},
            peak_memory_mib=100.0 + seed,
            peak_memory_source="process, VmHWM",
            trainable_parameters=512,
            versions=CPU,
        )
        folder = put(
            seed=seed,
            split="new",
            seconds={"train": 0.0, "test": 2.0},
            trainable_parameters=512,
            versions=CPU,
            peak_memory_source="process, VmHWM",
        )
    (row,) = cost_sheets(gather(folder)[0])[0].rows
    assert (
        row["train_seconds"].mean == 12.0 and row["train_seconds"].n == 2
    )  # tests of a trained prompt are no training of 0 s
    assert row["test_seconds"].mean == 3.0 and row["test_seconds"].n == 2
    assert (row["peak_memory_mib"], row["peak_memory_source"]) == (102.0, "process, VmHWM")
    assert (row["trainable_parameters"], row["device"], row["runs"]) == (512, "cpu, threads: 2", 4)


def test_resumed_runs_are_left_out_of_the_seconds_and_said(put):
    put(seconds={"train": 10.0, "test": 1.0})
    (sheet,) = cost_sheets(gather(put(seed=2, seconds={"train": 3.0, "test": 1.0}, resumed_from_epoch=4))[0])
    assert sheet.rows[0]["train_seconds"].mean == 10.0 and sheet.rows[0]["resumed"] == 1
    assert any(note.startswith("1 resumed run left out") for note in sheet.notes)


@pytest.mark.parametrize(
    "change", [{"versions": {"device": "A100"}}, {"peak_memory_source": "CUDA allocator"}, {"shots": 4}]
)
def test_what_does_not_compare_is_not_mixed(put, change):
    put(versions=CPU)
    assert len(cost_sheets(gather(put(seed=2, **{"versions": CPU, **change}))[0])[0].rows) == 2


def test_half_of_a_seeds_tests_or_a_doubled_one_is_no_seconds_of_a_test(put):
    for seed in (1, 2):
        put(seed=seed, seconds={"train": 10.0, "test": 1.0})
        put(seed=seed, split="new", seconds={"train": 0.0, "test": 2.0})
    put(seed=2, split="new", seconds={"train": 0.0, "test": 2.0}, folder="again")
    (row,) = cost_sheets(gather(put(seed=3, seconds={"train": 10.0, "test": 1.0}))[0])[0].rows
    assert row["test_seconds"].mean == 3.0 and row["test_seconds"].n == 1 and row["train_seconds"].n == 3


def test_seconds_of_unequal_trainings_are_not_averaged(put):
    put(registered="A")
    (sheet,) = cost_sheets(gather(put(seed=2, registered="B"))[0])
    assert sheet.rows[0]["train_seconds"] == "incomplete"
    assert sheet.problems == (
        "seconds of training, CoOp (tiny) on digits, base2new: runs with unequal settings: DATASET.NAME",
    )


def test_unequal_numbers_of_parameters_are_none(put):
    put(trainable_parameters=512)
    assert cost_sheets(gather(put(seed=2, trainable_parameters=1024))[0])[0].rows[0]["trainable_parameters"] is None


def test_older_results_say_nothing_of_parameters(put):
    (sheet,) = cost_sheets(gather(put())[0])
    assert sheet.rows[0]["trainable_parameters"] is None and sheet.rows[0]["device"] == "not known"
