"""Can the tests fail? Each property of docs/method.md is broken on purpose, and its test must turn red.

    python tests/counterfactual/mutations.py             # every mutation, some three minutes on two free cores
    python tests/counterfactual/mutations.py --only 7    # those of one property

A mutation is one textual change of the code, which must match exactly once. It is made in a temporary copy, never in the
working tree. First the copy's tests must be green as it stands; then each mutation's test runs alone. Exit status: 0 all
red, 1 one stayed green or broke otherwise than by failing, 2 the tests fail unmutated or the code has moved on.
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("dicap", "trainers", "datasets", "configs", "tests", "pyproject.toml")
PROPERTIES = range(1, 19)
WORKERS = 2
CRASH = re.compile(
    r"(SyntaxError|NameError|ImportError|ModuleNotFoundError|AttributeError|TypeError)\b"
)  # proves nothing


class Mutation(NamedTuple):
    """One change that breaks one property.

    Attributes:
        number: of the property, 1 to 18. what: the fault in words. file: relative to the repository.
        old, new: the text and what takes its place. test: pytest node that must turn red.
    """

    number: int
    what: str
    file: str
    old: str
    new: str
    test: str


class MovedOn(ValueError):
    """A mutation's text is not found exactly once."""


PROCESS, GENERATOR, SEARCH = (f"dicap/counterfactual/{name}.py" for name in ("process", "generator", "search"))
MECHANISM, DIAGNOSTICS = "dicap/counterfactual/mechanism.py", "dicap/counterfactual/diagnostics.py"
IN_PROCESS, IN_GENERATOR, IN_SEARCH, IN_IDENTIFICATION, IN_MECHANISM, IN_PROMPT = (
    f"tests/counterfactual/test_{name}.py::test_"
    for name in ("process", "generator", "search", "identification", "mechanism", "prompt")
)

MUTATIONS = (
    Mutation(
        1,
        "the ceiling leaks the factual class",
        PROCESS,
        "CEILING = 1e-6 ",
        "CEILING = 1e-2 ",
        IN_PROCESS + "1_exact_scores_from_the_ceiling_give_the_shift",
    ),
    Mutation(
        1,
        "a step keeps the old time's noise",
        PROCESS,
        "(z - noise * eps) + noise_next * eps",
        "(z - noise * eps) + noise * eps",
        IN_IDENTIFICATION + "1_exact_scores_reach_the_truth_of_a_non_gaussian_world",
    ),
    Mutation(
        2,
        "plain inversion never looks at the score again",
        PROCESS,
        "if fixed_point == 0 and t > 0:",
        "if fixed_point == 0 and t < 0:",
        IN_PROCESS + "2_plain_inversion_is_first_order",
    ),
    Mutation(
        2,
        "one refinement, however many are asked for",
        PROCESS,
        "for _ in range(refinements):",
        "for _ in range(min(refinements, 1)):",
        IN_PROCESS + "2_refinement_inverts_and_newton_is_exact",
    ),
    Mutation(
        3,
        "kappa without its root",
        PROCESS,
        "return 1 - (signal / (signal + 1 - kept)).sqrt()",
        "return 1 - (signal / (signal + 1 - kept))",
        IN_PROCESS + "3_kappa_is_the_share_of_the_shift",
    ),
    Mutation(
        3,
        "decoding begins at the grid time above the start",
        PROCESS,
        "now = torch.minimum(start, t)",
        "now = torch.maximum(start, t)",
        IN_PROCESS + "3_kappa_is_the_share_of_the_shift",
    ),
    Mutation(
        4,
        "the floor blurs small eigenvalues",
        PROCESS,
        "FLOOR = 1e-5 ",
        "FLOOR = 1e-1 ",
        IN_IDENTIFICATION + "4_ddim_reaches_the_symmetric_root_and_no_other_mechanism_of_the_same_law",
    ),
    Mutation(
        4,
        "abduction asks for the score at the old time",
        PROCESS,
        "guess = eps(z_next, t_next, slice(None))",
        "guess = eps(z_next, t, slice(None))",
        IN_IDENTIFICATION + "4_the_counterfactuals_have_the_law_of_the_target",
    ),
    Mutation(
        5,
        "guidance starts from the conditional score",
        PROCESS,
        "return marginal + w * (conditional - marginal)",
        "return conditional + w * (conditional - marginal)",
        IN_PROCESS + "5_classifier_free_guidance_is_classifier_guidance",
    ),
    Mutation(
        6,
        "prediction takes the marginal score",
        GENERATOR,
        "score = self.estimator.eps(condition, ",
        "score = self.estimator.eps(None, ",
        IN_GENERATOR + "6_the_own_class_changes_nothing_but_by_the_reconstruction",
    ),
    Mutation(
        6,
        "Newton's correction with the wrong sign",
        MECHANISM,
        "self.vectors / (1 - slope)",
        "self.vectors / (1 + slope)",
        IN_PROCESS + "6_the_same_class_is_the_identity",
    ),
    Mutation(
        7,
        "abduction always takes the marginal score",
        GENERATOR,
        "score = estimator.eps(None if marginal else condition)",
        "score = estimator.eps(None)",
        IN_GENERATOR + "7_the_generators_conditional_abduction_frees_the_latent_of_the_class",
    ),
    Mutation(
        7,
        "HSIC's labels are never permuted",
        DIAGNOSTICS,
        "same[order][:, order]",
        "same",
        IN_PROCESS + "7_only_conditional_abduction_frees_the_latent_of_the_class",
    ),
    Mutation(
        8,
        "w is not heard",
        PROCESS,
        "return marginal + w * (conditional - marginal)",
        "return marginal + 1.0 * (conditional - marginal)",
        IN_PROCESS + "8_guidance_other_than_one_misses_the_truth",
    ),
    Mutation(
        9,
        "a step keeps the old time's noise",
        PROCESS,
        "(z - noise * eps) + noise_next * eps",
        "(z - noise * eps) + noise * eps",
        IN_IDENTIFICATION + "9_the_error_is_within_its_bound",
    ),
    Mutation(
        10,
        "a ceiling that leaks hides the rotation's price",
        PROCESS,
        "CEILING = 1e-6 ",
        "CEILING = 1e-2 ",
        IN_IDENTIFICATION + "10_control_a_rotation_of_the_noise_is_invisible_and_wrong",
    ),
    Mutation(
        10,
        "the wrong score no longer reconstructs",
        MECHANISM,
        "self.vectors / (1 - slope)",
        "self.vectors / (1 + slope)",
        IN_IDENTIFICATION + "10_control_a_wrong_score_reconstructs_perfectly",
    ),
    Mutation(
        11,
        "sufficient a nat too early",
        SEARCH,
        "enough = reached >= delta",
        "enough = reached >= delta - 1",
        IN_SEARCH + "11_the_search_brackets_the_threshold",
    ),
    Mutation(
        11,
        "no bisection: the grid point is kept",
        SEARCH,
        "for _ in range(HALVINGS):",
        "for _ in range(0):",
        IN_SEARCH + "11_minimal_counterfactuals_stop_just_past_the_threshold",
    ),
    Mutation(
        12,
        "every row starts where the first one does",
        "dicap/counterfactual/interventions.py",
        "together = amount[0] if bool((amount == amount[0]).all()) else amount",
        "together = amount[0]",
        IN_GENERATOR + "12_batched_is_one_by_one",
    ),
    Mutation(
        12,
        "the network normalises over its batch",
        "dicap/counterfactual/denoiser.py",
        "return layer_norm(h, h.shape[-1:])",
        "return layer_norm(h, h.shape)",
        IN_GENERATOR + "12_batched_is_one_by_one",
    ),
    Mutation(
        13,
        "the text moves by the factual alone",
        "dicap/counterfactual/losses.py",
        '"be,bme->bm", anchor, cf)',
        '"be,bme->bm", anchor.detach(), cf)',
        "tests/counterfactual/test_losses.py::test_text_contrast_gradient_is_parallel_to_the_causal_difference",
    ),
    Mutation(
        13,
        "an unmoved counterfactual pulls",
        "dicap/counterfactual/losses.py",
        '"be,bme->bm", anchor, cf)',
        '"be,bme->bm", anchor.detach(), cf)',
        IN_PROMPT + "13_an_unmoved_counterfactual_says_nothing_to_the_trainers_contrast",
    ),
    Mutation(
        14,
        "L_cf hears invalid counterfactuals",
        "dicap/counterfactual/losses.py",
        "torch.where(valid, counterfactual, torch.zeros_like(counterfactual)).sum()",
        "counterfactual.sum()",
        IN_PROMPT + "14_an_all_invalid_batch_leaves_cross_entropy_and_the_pull_to_the_frozen_text",
    ),
    Mutation(
        14,
        "L_con hears invalid counterfactuals",
        "dicap/counterfactual/losses.py",
        'negative.masked_fill(~valid, float("-inf"))',
        "negative",
        IN_PROMPT + "14_an_all_invalid_batch_leaves_cross_entropy_and_the_pull_to_the_frozen_text",
    ),
    Mutation(
        14,
        "invalid counterfactuals weigh in the division",
        "dicap/counterfactual/losses.py",
        "total = 1 + weight * valid.float().mean()",
        "total = 1 + weight",
        "tests/counterfactual/test_losses.py::test_weighted_losses_sum_to_a_mean_of_what_is_there",
    ),
    Mutation(
        15,
        "class names are saved with the prompt",
        "dicap/prompts.py",
        'self.register_buffer("name", words.suffix, persistent=False)',
        'self.register_buffer("name", words.suffix)',
        IN_PROMPT + "15_a_prompt_of_five_classes_loads_into_seven",
    ),
    Mutation(
        16,
        "a tenth of the residual is lost",
        "dicap/counterfactual/space.py",
        "self.scale * (z @ self.directions.T) + residual",
        "self.scale * (z @ self.directions.T) + 0.9 * residual",
        IN_MECHANISM + "16_the_residual_passes_through_before_normalising",
    ),
    Mutation(
        17,
        "the seed is not heard",
        GENERATOR,
        "random = torch.Generator().manual_seed(config.seed)",
        "random = torch.Generator(); random.seed()",
        IN_GENERATOR + "17_the_seed_decides",
    ),
    Mutation(
        18,
        "class means are shrunk to the text's",
        MECHANISM,
        '"class": torch.ones_like(counts)',
        '"class": torch.zeros_like(counts)',
        IN_MECHANISM + "18_the_shift_generator_errs_by_its_class_means",
    ),
)


def mutated(mutation: Mutation, root: Path) -> str:
    """The mutated text of the file. Raises MovedOn unless the old text is there exactly once."""
    text = (root / mutation.file).read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1:
        raise MovedOn(
            f"property {mutation.number}, {mutation.what!r}: {mutation.old!r} is found {count} times in {mutation.file}, not"
            " once; the code moved on: give the mutation the text as it is now"
        )
    return text.replace(mutation.old, mutation.new)


def run_tests(copy: Path, tests: Iterable[str]) -> tuple[int, str]:
    """pytest on nodes of a copy, up to the first failure: exit status and output."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "240",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "--tb=no", *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def verdict(status: int, output: str) -> str:
    """red, GREEN, or BROKEN with the reason where a test did not fail but crash."""
    if status == 0:
        return "GREEN"
    reasons = re.findall(r"^FAILED \S+.*? - (.*)$", output, re.M)
    if status != 1 or not reasons or all(CRASH.match(reason) for reason in reasons):
        return f"BROKEN: {(reasons or output.strip().splitlines() or ['no output'])[-1]}"
    return "red"


def try_out(mutation: Mutation, copies: "queue.Queue[Path]") -> str:
    """Apply, test, take back, in a copy that is free."""
    copy = copies.get()
    file = copy / mutation.file
    original = file.read_text(encoding="utf-8")
    try:
        file.write_text(mutated(mutation, copy), encoding="utf-8")
        return verdict(*run_tests(copy, [mutation.test]))
    finally:
        file.write_text(original, encoding="utf-8")
        copies.put(copy)


def make_copies(folder: Path, count: int) -> list[Path]:
    """Equal copies of what the tests need. Raises RuntimeError where Python would import another dicap than the copy's."""
    copies = [folder / str(number) for number in range(count)]
    copies[0].mkdir()
    for source in (ROOT / name for name in NEEDED):
        if source.is_dir():
            shutil.copytree(
                source, copies[0] / source.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(source, copies[0])
    for other in copies[1:]:
        shutil.copytree(copies[0], other, symlinks=True)
    command = [sys.executable, "-c", "import dicap; print(dicap.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(copies[0]), "PYTHONDONTWRITEBYTECODE": "1"}
    imported = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(imported).resolve().is_relative_to(copies[0].resolve()):
        raise RuntimeError(f"the tests would import {imported}, not the copy in {copies[0]}: uninstall that dicap")
    return copies


def table(rows: list[tuple[str, str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(" | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, metavar="N", choices=PROPERTIES, help="the mutations of property N alone")
    only = parser.parse_args(arguments).only
    chosen = [mutation for mutation in MUTATIONS if only in (None, mutation.number)]
    with tempfile.TemporaryDirectory(prefix="dicap-mutations-") as folder:
        copies = make_copies(Path(folder), min(WORKERS, len(chosen)))
        try:
            for mutation in chosen:
                mutated(mutation, copies[0])
        except MovedOn as error:
            print(error, file=sys.stderr)
            return 2
        status, output = run_tests(copies[0], sorted({mutation.test for mutation in chosen}))
        if status != 0:
            print(output, "\nthe tests must be green before anything is broken", sep="", file=sys.stderr)
            return 2
        print(f"unmutated: {output.strip().splitlines()[-1]}", flush=True)
        free: queue.Queue[Path] = queue.Queue()
        for copy in copies:
            free.put(copy)
        with ThreadPoolExecutor(len(copies)) as pool:
            verdicts = list(pool.map(lambda mutation: try_out(mutation, free), chosen))
    rows = [(str(m.number), m.what, m.test.split("::")[1], verdict) for m, verdict in zip(chosen, verdicts)]
    print(table([("property", "mutation", "test", "verdict"), *rows]))
    red = verdicts.count("red")
    print(f"{red} of {len(chosen)} mutations turn their test red")
    return 0 if red == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
