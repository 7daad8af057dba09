"""Ablations: one file lists the cells, one command runs them base-to-new over the same seeds and compares in pairs.

dicap ablations                                      # configs/ablations/causal_shapes.yaml
dicap ablations my.yaml --seeds 101-120 --jobs 2

# my.yaml
dataset: causal_shapes      # a file in configs/datasets
seeds: 1-20
shots: 16
method: DiCap               # of cells that name none
recipe: tiny
reference: DiCap            # the cell that the others are compared with
settings: {}                # of every run: KEY: VALUE; a key without a dot belongs to the trainer's or the learner's section
groups:                     # sections of the table
  Controls:
    no-cf: {CONTROL: no-cf}                          # upper case: settings of this cell
    CoOp: {method: CoOp}                             # lower case: method, recipe, dataset, shots, seeds, reference
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap.config import CONFIGS
from dicap.experiments.cells import by_key, line_of, numbers, own_settings, plan_cell, run_cells, slug
from dicap.experiments.driver import show_plan
from dicap.experiments.executor import raise_failures
from dicap.experiments.protocols import SEEDS, SHOTS, Job, Request, choose_recipe, find_method
from dicap.options import ConfigError
from dicap.report.ablations import Line, ablation_sheet
from dicap.report.sheet import Sheet, print_sheet, write_sheet

log = logging.getLogger(__name__)

COMMON = ("dataset", "seeds", "shots", "method", "recipe", "reference", "settings", "groups")
OF_A_CELL = ("method", "recipe", "dataset", "shots", "seeds", "reference")


@dataclass(frozen=True)
class Cell:
    """One line of the table. reference: the cell that it is compared with, "" = none."""

    name: str
    group: str
    reference: str
    request: Request


@dataclass(frozen=True)
class Ablation:
    """A file of cells, read and checked."""

    name: str
    reference: str
    cells: tuple[Cell, ...]

    def jobs(self, cell: Cell) -> list[Job]:
        """A cell's runs, by seed. Raises ConfigError."""
        return plan_cell(cell.name, f"ablations/{self.name}/{slug(cell.name)}", cell.request)


def ablation_path(name: str) -> Path:
    """The file that a name stands for: itself, or configs/ablations/NAME.yaml. Raises ConfigError."""
    folder = CONFIGS / "ablations"
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    there = sorted(path.stem for path in folder.glob("*.yaml"))
    raise ConfigError(f"no ablation {name!r}; give a .yaml file, or one of configs/ablations: {', '.join(there)}")


def read_ablation(path: Path, request: Request, output_name: str = "") -> Ablation:
    """Read a file of cells.

    Args:
        request: what the command line says for all cells: seeds, shots and recipe where they are given (empty or 0
            where not), settings, data, backbone, out.
        output_name: name of the output instead of the file's.
    Raises:
        ConfigError: names the file, the cell, the key, and what is allowed.
    """
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_keys(tree, COMMON, "the file")
        _check_pairs(tree.get("settings") or {}, "`settings`")
        groups = tree.get("groups") or {}
        for group, entries in groups.items():
            _check_pairs(entries, f"group {group!r}")
        cells = [
            _cell(name, group, entry, tree, request)
            for group, entries in groups.items()
            for name, entry in entries.items()
        ]
        return _checked(Ablation(slug(output_name or path.stem), str(tree.get("reference", "")), tuple(cells)))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a file of cells ({error}); dicap/experiments/ablations.py shows the form"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_pairs(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {entry!r}; expected KEY: VALUE pairs")


def _check_keys(entry: Any, allowed: Sequence[str], where: str, settings: bool = False) -> None:
    _check_pairs(entry, where)
    for key in entry:
        if key not in allowed and not (settings and str(key)[:1].isupper()):
            raise ConfigError(
                f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}"
                f"{' and settings in upper case' if settings else ''}"
            )


def _cell(name: Any, group: Any, entry: Any, tree: dict, request: Request) -> Cell:
    """One cell: its own values, else the command line's, else the file's; for seeds the command line wins."""
    entry, name = entry or {}, str(name)
    _check_keys(entry, OF_A_CELL, f"cell {name!r}", settings=True)
    value = {**tree, **{key: entry[key] for key in OF_A_CELL if key in entry}}
    shots = entry.get("shots") or request.shots or value.get("shots", SHOTS)
    if not isinstance(shots, int):
        raise ConfigError(f"cell {name!r}: shots {shots!r}: expected a whole number from 1")
    wanted = entry.get("recipe") or request.recipe or str(value.get("recipe", "tiny"))
    own = {key: setting for key, setting in entry.items() if key not in OF_A_CELL}
    try:
        method, recipe = choose_recipe(find_method(str(value.get("method", "DiCap"))), (wanted,))
        settings = own_settings({**(tree.get("settings") or {}), **own}, method)
    except ConfigError as error:
        raise ConfigError(f"cell {name!r}: {error}") from None
    own_request = dataclasses.replace(
        request,
        methods=(method,),
        datasets=(str(value.get("dataset", "")),),
        shots=shots,
        seeds=request.seeds or numbers(value.get("seeds", SEEDS)),
        recipe=recipe,
        settings=settings + request.settings,
    )
    return Cell(name, str(group), str(value.get("reference", "")), own_request)


def _checked(ablation: Ablation) -> Ablation:
    """Names and references fit each other. Raises ConfigError."""
    names = [cell.name for cell in ablation.cells]
    folders = [slug(name) for name in names]
    twice = sorted({name for name, folder in zip(names, folders) if folders.count(folder) > 1})
    if not names or twice:
        raise ConfigError(f"cells {', '.join(twice)} share a name or a folder" if twice else "no cells below `groups`")
    for cell in ablation.cells:
        if cell.reference and cell.reference not in names:
            raise ConfigError(
                f"reference {cell.reference!r} of {cell.name!r} is no cell; there are: {', '.join(names)}"
            )
    return ablation


def choose(ablation: Ablation, names: Sequence[str]) -> list[Cell]:
    """The cells of these names, or of groups of these names; all where none is given. Raises ConfigError."""
    known = {name for cell in ablation.cells for name in (cell.name, cell.group)}
    for name in names:
        if name not in known:
            raise ConfigError(f"no cell or group {name!r}; there are: {', '.join(c.name for c in ablation.cells)}")
    return [cell for cell in ablation.cells if not names or cell.name in names or cell.group in names]


def sheet_of(ablation: Ablation, jobs: dict[str, list[Job]], chosen: Sequence[Cell]) -> Sheet:
    """The table from the result files: chosen cells, and others that have any; the rest is named as not run.

    A draw that is not there, or was made with other settings, is a problem of its line.
    """
    lines: list[Line] = []
    not_run: list[str] = []
    for cell in ablation.cells:
        line = line_of(cell.name, jobs[cell.name], by_key(cell.request.settings), cell.group, cell.reference)
        if line.values or cell in chosen:
            lines.append(line)
        else:
            not_run.append(cell.name)
    return ablation_sheet(ablation.name, lines, not_run)


def run_ablations(
    name: str,
    request: Request,
    *,
    cells: Sequence[str] = (),
    output_name: str = "",
    parallel: int = 1,
    dry_run: bool = False,
    verbose: bool = False,
) -> None:
    """Plan and check all cells, run the chosen ones, tabulate all.

    Raises:
        ConfigError: before any work.
        RunError: at the end, if a run failed; lists all that did.
    """
    ablation = read_ablation(ablation_path(name), request, output_name)
    chosen = choose(ablation, cells)
    jobs = {cell.name: ablation.jobs(cell) for cell in ablation.cells}
    wanted = [job for cell in chosen for job in jobs[cell.name]]
    number, out = len(ablation.cells), Path(request.out, "ablations", ablation.name)
    log.info("%s: %d of %d cells, %d runs in %s", ablation.name, len(chosen), number, len(wanted), out)
    if dry_run:
        show_plan(wanted)
        return
    failures = run_cells(wanted, parallel, verbose)
    sheet = sheet_of(ablation, jobs, chosen)
    print_sheet(sheet)
    log.info("Written: %s", ", ".join(map(str, write_sheet(sheet, Path(request.out, "ablations")))))
    raise_failures(failures, len(wanted))
