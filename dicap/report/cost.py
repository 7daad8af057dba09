"""What runs cost: seconds of training and testing, peak memory, numbers learned, by method, dataset and device."""

from collections.abc import Iterable
from typing import Any

from dicap.report.sheet import INCOMPLETE, Column, Sheet, columns_that_vary, title_of, words
from dicap.report.stats import Stat
from dicap.report.table import dataset_rank, grouped, method_rank, unequal

NAME = "cost"
SHARED = {"shots": "{} shots", "backbone": "backbone {}", "device": "on {}", "peak_memory_source": "memory of: {}"}
NOTES = (
    "Train s: seconds of one training, validation included; mean ± standard deviation over seeds. Empty where nothing "
    "was trained: a method that learns nothing, or a prompt trained on another dataset.",
    "Test s: seconds of a seed's tests (base and new classes together in base-to-new), of seeds that have them all.",
    "Peak MiB: the highest of all runs. The allocator of a CUDA device and a whole process on a CPU do not compare.",
)


def cost_sheets(results: Iterable[dict]) -> list[Sheet]:
    """The table of costs; none where there is no result."""
    groups = grouped(results, _group)
    rows = [_row(groups[key]) for key in sorted(groups)]
    resumed = sum(row["resumed"] for row in rows)
    runs = f"{resumed} resumed run{'s' if resumed > 1 else ''}"
    left_out = [f"{runs} left out of the training seconds: the clock saw only the last part."] if resumed else []
    columns = (
        *columns_that_vary(rows, {"protocol": "Protocol", "task": "Task"}),
        *words("dataset", "method", "recipe"),
        *columns_that_vary(rows, {"shots": "Shots", "backbone": "Backbone"}),
        Column("train_seconds", "Train s"),
        Column("test_seconds", "Test s"),
        Column("peak_memory_mib", "Peak MiB", "number", 0),
        *columns_that_vary(rows, {"peak_memory_source": "Memory of"}),
        Column("trainable_parameters", "Parameters", "number"),
        *columns_that_vary(rows, {"device": "Device"}),
        Column("runs", "Runs", "number"),
        Column("resumed", "Resumed", "number", where="files"),
    )
    sheet = Sheet(
        NAME,
        title_of("Cost", rows, SHARED),
        columns,
        tuple(rows),
        (*NOTES, *left_out),
        tuple(row["problem"] for row in rows if row["problem"]),
        "dataset",
        extra={"std": "over runs, ddof = 1"},
    )
    return [sheet] if rows else []


def _group(result: dict) -> tuple:
    """What has a row of its own, in reading order."""
    protocol, task, *facts = (result[key] for key in ("protocol", "task", "shots", "backbone"))
    names = dataset_rank(result["dataset"]), *facts, method_rank(result["method"]), result["recipe"]
    return protocol, task, *names, _device(result), result.get("peak_memory_source", "")


def _device(result: dict) -> str:
    versions = result["versions"]
    threads = f", threads: {versions['threads']}" if versions.get("device") == "cpu" and "threads" in versions else ""
    return str(versions.get("device", "not known")) + threads


def _row(results: list[dict]) -> dict[str, Any]:
    first, halves = results[0], sorted({r["split"] for r in results})
    by_seed = grouped(results, lambda r: r["seed"]).values()
    tests = [sum(r["seconds"]["test"] for r in of) for of in by_seed if sorted(r["split"] for r in of) == halves]
    trained = [r for r in results if r["seconds"]["train"] and not r.get("resumed_from_epoch")]
    differ = unequal(trained)
    learned = {r["trainable_parameters"] for r in results if "trainable_parameters" in r}
    where = "seconds of training, {method} ({recipe}) on {dataset}, {protocol}".format(**first)
    seconds = Stat.of(float(r["seconds"]["train"]) for r in trained) if trained else None
    return {
        **{key: first[key] for key in ("protocol", "task", "dataset", "method", "recipe", "shots", "backbone")},
        "train_seconds": INCOMPLETE if differ else seconds,
        "test_seconds": Stat.of(map(float, tests)) if tests else INCOMPLETE,
        "peak_memory_mib": float(max(r["peak_memory_mib"] for r in results)),
        "peak_memory_source": first.get("peak_memory_source", "not known"),
        "trainable_parameters": learned.pop() if len(learned) == 1 else None,
        "device": _device(first),
        "runs": len(results),
        "resumed": sum(bool(r.get("resumed_from_epoch")) for r in results),
        "problem": f"{where}: runs with unequal settings: {', '.join(differ)}" if differ else "",
    }
