"""Counterfactual features against a known truth: rendered pictures of CausalShapes, and a skewed causal model.

    python -m benchmarks.counterfactual_truth [--seeds 10] [--jobs 2] [--markdown docs/counterfactual_truth.md] [--quick]

CausalShapes: 25 base classes, 16 shots, 3 targets an image; each image's true counterfactual is rendered - same scene,
colour, pose, light and sensor noise, another class - and encoded by the tiny CLIP, as the image itself is. The generator
sees images, labels and texts alone; train_steps 300, as in the tiny recipe. No cache is used. The worlds' seeds start at
2001; none of them was used in development. All rows of a table share the same worlds, images and targets. Exit code 1 if
one of the three statements fails. Measures: benchmarks/truth_measures.py.
"""

import argparse
import concurrent.futures
import copy
import dataclasses
import functools
import math
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.truth_measures import Case, Probe, best_additive, bound_terms, errors, minimality, probe_shares
from dicap.backbones import load_clip
from dicap.counterfactual import CounterfactualGenerator, GeneratorConfig, choose_targets
from dicap.counterfactual.bank import control_counterfactuals
from dicap.counterfactual.scm import skewed
from dicap.files import write_text
from dicap.report.stats import Difference, difference
from dicap.world import CLASSES, DOWNSTREAM, Knobs, do, intervene, sample
from dicap.world.captions import OTHER_TEMPLATES, TEMPLATE
from dicap.world.evaluate import encode_images, encode_names
from dicap.world.files import split_latents
from dicap.world.render import render_planar

BASE, SHOTS, TARGETS, TRAIN_STEPS = 25, 16, 3, 300
FIRST_SEED = 2001
RHOS = (1.0, 0.9, 0.0)
PROBE_SEED, PROBE_IMAGES = 2**41, 3000  # a seed that no world here and no training of the tiny CLIP uses
DEFAULT, TEXT_SHIFT, CLASS_SHIFT = "default", "shift, text", "shift, class means"
UNMOVED, TRUTH = "nothing moved", "truth"
SHIFT = {"generator": "shift", "search": "line"}
MAIN = {DEFAULT: {}, TEXT_SHIFT: SHIFT, CLASS_SHIFT: {**SHIFT, "means": "class"}}
ROWS: dict[str, dict] = {
    **MAIN,
    "shift, blend": {**SHIFT, "means": "blend"},
    "gauss": {"generator": "gauss"},
    "v": {"generator": "v"},
    "eps": {"generator": "eps"},
    "train data do": {"train_data": "do"},
    "train data observed": {"train_data": "observed"},
    "class means": {"means": "class"},
    "abduct marg": {"abduct": "marg"},
    "w 1.5": {"w": 1.5},
}
ADDITIVE, AMOUNT = "best additive law", "with each image's amount"  # fitted to the truth: what additivity costs
CONTROLS = ("real-neighbour-cf", "recombine", "prototype")
PREDICTION_SETTINGS = ("abduct", "w")  # they do not change the fit
TOLERANCE = 0.01  # statement (b): how much larger the default's error may be at the interval's end
MAX_RATIO = 0.75  # statement (c): the default's error over a shift's, at most
MARKS = "<!-- measured: begin -->", "<!-- measured: end -->"

# ---- worlds


@functools.cache
def clip() -> torch.nn.Module:
    """The tiny CLIP, once a process."""
    return load_clip("tiny")


def encode(latents: np.ndarray) -> Tensor:
    """Features (B, e) of the pictures of latents (B,)."""
    return encode_images(clip(), render_planar(latents, DOWNSTREAM))


def shapes_case(seed: int, rho: float, shots: int = SHOTS) -> Case:
    """The few shots of a world, each with its rendered truth in three other base classes."""
    latents = split_latents("train", Knobs(rho=rho, per_class_train=shots, seed=seed))
    latents = latents[latents["label"] < BASE]
    labels, texts = torch.from_numpy(latents["label"].astype(int)), encode_names(clip(), CLASSES[:BASE], TEMPLATE)
    targets = choose_targets(texts, labels, TARGETS, "top3", torch.Generator().manual_seed(seed))
    truth = [encode(intervene(latents, do({"class": column.numpy()}))) for column in targets.T]
    return Case(encode(latents), labels, texts, targets, torch.stack(truth, 1))


def scm_case(seed: int) -> Case:
    """The skewed causal model: 25 classes, 16 rows each."""
    world = skewed(seed, classes=BASE, shots=SHOTS)
    targets = choose_targets(world.texts, world.labels, TARGETS, "random", torch.Generator().manual_seed(seed))
    return Case(world.features, world.labels, world.texts, targets, world.truth(targets))


def fit_probes(count: int = PROBE_IMAGES) -> tuple[dict[str, Probe], dict[str, float]]:
    """Probes of class (base classes), scene and colour, and their accuracy on 1,000 more pictures."""
    latents = sample(count + 1000, PROBE_SEED)
    latents["label"] %= BASE
    features, names = encode(latents), {"class": "label", "scene": "scene", "colour": "colour"}
    probes = {name: Probe.fit(features[:count], latents[field][:count]) for name, field in names.items()}
    correct = {name: probes[name].predict(features[count:]).numpy() == latents[names[name]][count:] for name in names}
    return probes, {name: float(values.mean()) for name, values in correct.items()}


# ---- one world


class Fitted:
    """Generators of one case; those that differ in PREDICTION_SETTINGS alone share a fit."""

    def __init__(self, case: Case):
        self.case = case
        self.generators: dict[tuple, CounterfactualGenerator] = {}

    def __call__(self, settings: dict) -> CounterfactualGenerator:
        fit_settings = {key: value for key, value in settings.items() if key not in PREDICTION_SETTINGS}
        key, case = tuple(sorted(fit_settings.items())), self.case
        if key not in self.generators:
            generator = CounterfactualGenerator(GeneratorConfig(train_steps=TRAIN_STEPS, **fit_settings))
            self.generators[key] = generator.fit(case.features, case.labels, case.texts)
        generator = copy.copy(self.generators[key])
        generator.config = dataclasses.replace(generator.config, **settings)
        return generator


def counterfactuals(case: Case, fitted: Fitted, row: str) -> Tensor:
    """Features (B, M, e) of a table's row."""
    if row in CONTROLS:
        return control_counterfactuals(row, fitted({}), case.features, case.labels, case.targets)[0]
    if row in (ADDITIVE, AMOUNT):
        return best_additive(case, own_amount=row == AMOUNT)
    if row in (UNMOVED, TRUTH):
        return case.truth if row == TRUTH else case.features[:, None].expand_as(case.truth)
    return fitted(ROWS[row]).counterfactual(case.features, case.labels, case.targets).features


@dataclasses.dataclass(frozen=True)
class Task:
    """One world to measure: kind shapes or scm; full: all rows and probes, else the errors of the main rows."""

    kind: str
    seed: int
    rho: float = 0.0
    full: bool = False
    extras: bool = False  # also the minimal ones and the terms of the bound


@torch.no_grad()
def measure(task: Task, probes: dict[str, Probe]) -> dict[str, dict[str, dict[str, float]]]:
    """figures, minimal and bound: by row, by measure."""
    torch.set_num_threads(1)
    case = shapes_case(task.seed, task.rho) if task.kind == "shapes" else scm_case(task.seed)
    fitted = Fitted(case)
    rows = (*ROWS, *CONTROLS, UNMOVED, ADDITIVE, AMOUNT, TRUTH) if task.full else (*MAIN, UNMOVED, ADDITIVE)
    features = {row: counterfactuals(case, fitted, row) for row in rows}
    figures = {row: errors(case, cf) for row, cf in features.items()}
    result: dict[str, dict] = {"figures": figures, "minimal": {}, "bound": {}}
    if task.full:
        head = encode_names(clip(), CLASSES[:BASE], OTHER_TEMPLATES[0])
        for row, cf in features.items():
            figures[row] |= probe_shares(case, cf, probes, head, fitted({}))
    if task.extras:
        for row in (DEFAULT, "gauss", TEXT_SHIFT):
            result["minimal"][row] = minimality(case, fitted(ROWS[row]), probes, head)
        for row in (DEFAULT, "gauss", "train data observed"):
            result["bound"][row] = bound_terms(case, fitted(ROWS[row]))
    return result


def time_fit_and_search() -> tuple[float, float]:
    """Seconds to fit, and to search minimal counterfactuals, of 25 classes x 16 shots x 3 targets on two threads."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    case = shapes_case(FIRST_SEED, 1.0)
    began = time.perf_counter()
    generator = Fitted(case)({})
    between = time.perf_counter()
    generator.counterfactual(case.features, case.labels, case.targets, train_on="minimal")
    return between - began, time.perf_counter() - between


# ---- all worlds


def tasks_of(seeds: list[int], ablations: list[int]) -> list[Task]:
    """Longest first."""
    full = [Task("shapes", seed, rho, True, seed == ablations[0]) for seed in ablations for rho in RHOS]
    rest = [Task("shapes", seed, 1.0) for seed in seeds if seed not in ablations]
    return full + rest + [Task("scm", seed) for seed in seeds]


def measure_all(tasks: list[Task], probes: dict[str, Probe], jobs: int) -> dict[Task, dict]:
    """Every task's figures, some tasks at a time."""
    if jobs == 1:
        return {task: measure(task, probes) for task in tasks}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        return dict(zip(tasks, pool.map(measure, tasks, [probes] * len(tasks))))


def table(results: list[dict[str, dict[str, float]]], columns: dict[str, str]) -> list[str]:
    """Markdown: rows by name, means over results."""
    rows = []
    for row in results[0]:
        means = [statistics.fmean(result[row].get(name, math.nan) for result in results) for name in columns]
        rows.append((row, *("" if math.isnan(mean) else f"{mean:.3f}" for mean in means)))
    return harness.markdown(("", *columns.values()), rows)


FIGURES = {
    "error": "error",
    "along": "along",
    "across": "across",
    "moved": "moved along",
    "cosine": "cosine",
    "scene": "scene stays",
    "colour": "colour stays",
    "class": "class moves",
    "judge": "judge",
    "text head": "text head",
}
MINIMAL = {
    "valid": "exist",
    "kappa": "mean kappa",
    "proximity": "1 - cos",
    "full proximity": "1 - cos of the full",
    "class": "class moves",
    "text head": "text head",
    "scene": "scene stays",
}
BOUND = {
    "latent": "latent error",
    "of": "latent length",
    "lipschitz": "Lip",
    "first": "Lip x latent",
    "outside": "outside",
    "decoder": "decoder",
    "bound": "bound",
    "error": "error",
    "hsic": "HSIC p",
}


def error_difference(results: dict[int, dict], other: str) -> Difference:
    """Error of another row minus the default's, paired over worlds."""
    by_row = [{seed: result[row]["error"] for seed, result in results.items()} for row in (other, DEFAULT)]
    return difference(*by_row) or Difference(math.nan, math.nan, math.nan, math.nan, 0)


def interval(row: str, gap: Difference) -> str:
    """A row's error minus the default's, in words."""
    return f"{row} - default: {gap.mean:+.4f}, 95 % interval {gap.low:+.4f} to {gap.high:+.4f}, {gap.n} worlds"


def statements(shapes: dict[int, dict], scm: dict[int, dict]) -> list[tuple[bool, str]]:
    """(a), (b), (c): whether each holds by the measurement, and in words. NaN, under two worlds, fails."""
    gaps = {row: error_difference(shapes, row) for row in (CLASS_SHIFT, UNMOVED, TEXT_SHIFT)}
    scm_gaps = {row: error_difference(scm, row) for row in (CLASS_SHIFT, TEXT_SHIFT)}
    means = {row: statistics.fmean(result[row]["error"] for result in scm.values()) for row in MAIN}
    ratios = {row: means[DEFAULT] / means[row] for row in scm_gaps}
    text = (
        "(a) CausalShapes, rho 1: the default errs less than the class-mean shift and than moving nothing: "
        + "; ".join(interval(row, gaps[row]) for row in (CLASS_SHIFT, UNMOVED)),
        f"(b) CausalShapes, rho 1: the default is no worse than the text shift, by {TOLERANCE} at most: "
        + interval(TEXT_SHIFT, gaps[TEXT_SHIFT]),
        f"(c) skewed causal model: the default errs less than both shifts, at most {MAX_RATIO} times as much: "
        + "; ".join(f"{interval(row, scm_gaps[row])}, ratio {ratios[row]:.2f}" for row in scm_gaps),
    )
    holds = (
        min(gaps[CLASS_SHIFT].low, gaps[UNMOVED].low) > 0,
        gaps[TEXT_SHIFT].low > -TOLERANCE,
        all(scm_gaps[row].low > 0 and ratios[row] < MAX_RATIO for row in scm_gaps),
    )
    return list(zip(map(bool, holds), text))


def machine() -> str:
    """What ran this, and when."""
    return f"{harness.machine()}, scikit-learn {sklearn.__version__}"


def report(
    results: dict[Task, dict], accuracy: dict[str, float], seconds: tuple[float, float]
) -> tuple[list[str], bool]:
    """The lines to print, and whether every statement holds."""
    shapes = {t.seed: r["figures"] for t, r in results.items() if t.kind == "shapes" and t.rho == 1}
    scm = {t.seed: r["figures"] for t, r in results.items() if t.kind == "scm"}
    outcome = statements(shapes, scm)
    lines = [f"Measured {machine()}.", "", "### The three statements", ""]
    lines += [f"- {'PASS' if holds else 'FAIL'} {text}." for holds, text in outcome]
    lines += [
        "",
        f"Error by world, default / text shift / class-mean shift: CausalShapes {by_world(shapes)}; skewed model"
        f" {by_world(scm)}.",
        "",
        f"Fit and minimal search of {BASE} classes x {SHOTS} shots x {TARGETS} targets, {TRAIN_STEPS} steps, two threads:"
        f" {seconds[0]:.1f} + {seconds[1]:.1f} s.",
        "",
        "Probes on 1,000 independent pictures: " + ", ".join(f"{k} {v:.2f}" for k, v in accuracy.items()) + ".",
        "",
    ]
    for rho in RHOS:
        full = {t.seed: r for t, r in results.items() if t.full and t.rho == rho}
        lines += [f"### CausalShapes, rho {rho:g}, seeds {', '.join(map(str, full))}: all rows", ""]
        lines += [*table([r["figures"] for r in full.values()], FIGURES), ""]
        extras = [r for r in full.values() if r["minimal"]]
        lines += ["Minimal sufficient ones, one world:", "", *table([r["minimal"] for r in extras], MINIMAL), ""]
        lines += ["Terms of the bound, one world, first targets:", "", *table([r["bound"] for r in extras], BOUND), ""]
    lines += [f"### Skewed causal model, {len(scm)} worlds", ""]
    columns = {name: FIGURES[name] for name in ("error", "along", "across", "moved", "cosine")}
    lines += table(list(scm.values()), columns)
    return lines, all(holds for holds, _ in outcome)


def by_world(results: dict[int, dict]) -> str:
    """Errors of the main rows, world by world."""
    return ", ".join(
        f"{seed} " + "/".join(f"{result[row]['error']:.3f}" for row in MAIN) for seed, result in sorted(results.items())
    )


def between_marks(path: Path, measured: str) -> str:
    """The file's text with what is between its two marks replaced; without marks, the measurement alone."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, begin, rest = old.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    return f"{head}{begin}\n{measured}\n{end}{tail}" if end else measured + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="worlds of the three statements (default %(default)s)")
    parser.add_argument("--ablations", type=int, default=2, help="worlds of the full tables (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="worlds at a time")
    parser.add_argument("--markdown", type=Path, help="also write to this file: between its marks, if it has them")
    parser.add_argument(
        "--quick", action="store_true", help="3 worlds, 1 of them in the full tables: a look, no result"
    )
    args = parser.parse_args(arguments)
    count, ablations = (3, 1) if args.quick else (args.seeds, args.ablations)
    if not 2 <= count or not 1 <= ablations <= count:
        parser.error(f"--seeds {count} --ablations {ablations}: at least 2 seeds, and 1 to {count} ablations")
    began, seeds = time.perf_counter(), list(range(FIRST_SEED, FIRST_SEED + count))
    seconds = time_fit_and_search()
    probes, accuracy = fit_probes()
    results = measure_all(tasks_of(seeds, seeds[:ablations]), probes, args.jobs)
    lines, holds = report(results, accuracy, seconds)
    spent = sum(os.times()[:4])  # user and system, of this process and those that it waited for
    lines += ["", f"The whole command took {time.perf_counter() - began:.0f} s, {spent:.0f} s of processor time."]
    print("\n".join(lines))
    if args.markdown:
        write_text(args.markdown, between_marks(args.markdown, "\n".join(lines)))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
