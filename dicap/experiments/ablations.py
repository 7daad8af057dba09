"""Ablations: one file lists the cells, one command runs them base-to-new over the same seeds and compares in pairs.

    dicap ablations                                      # configs/ablations/causal_shapes.yaml
    dicap ablations my.yaml --seeds 101-120 --jobs 2

docs/protocols.md shows the form of the file.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicap import discover
from dicap import results as store
from dicap.config import CONFIGS
from dicap.experiments.driver import show_plan
from dicap.experiments.executor import execute, raise_failures
from dicap.experiments.finished import why_run
from dicap.experiments.protocols import BASE2NEW, Job, Protocol, Request, choose_recipe, find_method, plan, sections_of
from dicap.options import ConfigError
from dicap.report.ablations import Draw, Line, ablation_sheet
from dicap.report.sheet import Sheet, print_sheet, write_sheet
from dicap.report.table import measures_of
from dicap.tasks.classification import Classification

log = logging.getLogger(__name__)

OF_A_CELL = ("dataset", "seeds", "shots", "method", "recipe", "reference")


@dataclass(frozen=True)
class Cell:
    """One line of a table, or a part of one: a method with one recipe and its settings on one dataset.

    For each draw (a seed, or a seed and a fold) it trains a prompt and tests it on base and on new classes.
    """

    name: str
    folder: str  # where its runs write, below the output folder
    request: Request
    group: str = ""  # section of the table
    reference: str = ""  # the cell that it is compared with, "" = none

    def jobs(self) -> list[Job]:
        """Its runs, by seed. Raises ConfigError: names the cell, the value and what is allowed."""
        try:
            jobs = plan(Protocol(self.folder, BASE2NEW.stages, cell=self.name), self.request)
        except ConfigError as error:
            raise ConfigError(f"cell {self.name!r}: {error}") from None
        datasets = dict.fromkeys(job.dataset for job in jobs)
        if len(datasets) > 1:
            raise ConfigError(f"cell {self.name!r}: datasets {', '.join(datasets)}; a cell has one")
        return jobs


def ablation_path(name: str) -> Path:
    """The file that a name stands for: itself, or configs/ablations/NAME.yaml. Raises ConfigError."""
    folder = CONFIGS / "ablations"
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ConfigError(f"no ablation {name!r}; give a .yaml file, or one of configs/ablations: {there}")


def read_ablation(path: Path, request: Request, output_name: str = "") -> list[Cell]:
    """Read a file of cells.

    Args:
        request: what the command line says for all cells: seeds, shots and recipe where they are given (empty or 0
            where not), settings, data, backbone, out.
        output_name: name of the output instead of the file's.
    Raises ConfigError: names the file, the cell, the key, and what is allowed.
    """
    import yaml

    try:
        tree, name = yaml.safe_load(path.read_text(encoding="utf-8")), slug(output_name or path.stem)
        _check_pairs(tree, "the file", (*OF_A_CELL, "settings", "groups"))
        _check_pairs(tree.get("settings") or {}, "`settings`")
        cells: list[Cell] = []
        for group, entries in (tree.get("groups") or {}).items():
            _check_pairs(entries, f"group {group!r}")
            for key, entry in entries.items():
                cell = Cell(str(key), f"ablations/{name}/{slug(str(key))}", request, str(group))
                cells.append(_with_values(cell, entry or {}, tree))
        _check_names(cells)
        return cells
    except (yaml.YAMLError, OSError, UnicodeDecodeError, AttributeError) as error:
        form = "docs/protocols.md shows the form"
        raise ConfigError(f"{path}: not a file of cells ({error}); {form}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_pairs(entry: Any, where: str, allowed: Sequence[str] = (), settings: bool = False) -> None:
    """Raises ConfigError unless an entry is KEY: VALUE pairs, of `allowed` keys or settings."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {entry!r}; expected KEY: VALUE pairs")
    for key in entry if allowed else ():
        if key not in allowed and not (settings and str(key)[:1].isupper()):
            also = " and settings in upper case" if settings else ""
            raise ConfigError(f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}{also}")


def _with_values(cell: Cell, entry: Any, tree: dict) -> Cell:
    """The cell with its own values, else the command line's, else the file's; for seeds the command line wins."""
    request = cell.request
    _check_pairs(entry, f"cell {cell.name!r}", OF_A_CELL, settings=True)
    default: dict[str, Any] = {"method": "DiCap", "recipe": "tiny", "dataset": "", "reference": ""}
    default |= {"shots": Request.shots, "seeds": Request.seeds}
    given = {key: value for key in ("shots", "recipe") if (value := getattr(request, key))}
    value = {**default, **tree, **given, **{key: entry[key] for key in OF_A_CELL if key in entry}}
    own = {key: setting for key, setting in entry.items() if key not in OF_A_CELL}
    try:
        if not isinstance(value["shots"], int):
            raise ConfigError(f"shots {value['shots']!r}: expected a whole number from 1")
        method, recipe = choose_recipe(find_method(str(value["method"])), (str(value["recipe"]),))
        settings = own_settings({**(tree.get("settings") or {}), **own}, method)
    except ConfigError as error:
        raise ConfigError(f"cell {cell.name!r}: {error}") from None
    one: dict[str, Any] = {"methods": (method,), "datasets": (str(value["dataset"]),), "recipe": recipe}
    one |= {"seeds": request.seeds or numbers(value["seeds"]), "settings": settings + request.settings}
    request = dataclasses.replace(request, **one, shots=value["shots"])
    return dataclasses.replace(cell, request=request, reference=str(value["reference"]))


def _check_names(cells: Sequence[Cell]) -> None:
    """Names and references fit each other. Raises ConfigError."""
    names, folders = [cell.name for cell in cells], [cell.folder for cell in cells]
    twice = sorted({cell.name for cell in cells if folders.count(cell.folder) > 1})
    if not names or twice:
        raise ConfigError(f"cells {', '.join(twice)} share a name or a folder" if twice else "no cells below `groups`")
    for cell in cells:
        if cell.reference not in ("", *names):
            wrong = f"reference {cell.reference!r} of {cell.name!r} is no cell"
            raise ConfigError(f"{wrong}; there are: {', '.join(names)}")


def choose(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of these names, or of groups of these names; all where none is given. Raises ConfigError."""
    known = {name for cell in cells for name in (cell.name, cell.group)}
    for name in names:
        if name not in known:
            raise ConfigError(f"no cell or group {name!r}; there are: {', '.join(cell.name for cell in cells)}")
    return [cell for cell in cells if not names or cell.name in names or cell.group in names]


def run_ablations(name: str, request: Request, *, cells: Sequence[str] = (), output_name: str = "", **how: Any) -> None:
    """Plan and check all cells, run the chosen ones, tabulate all.

    Args:
        request, output_name: as `read_ablation` takes them. how: as `run_cells` does.
        cells: names of cells or groups, empty = all.
    Raises ConfigError: before any work; RunError: at the end, if a run failed; it lists all that did.
    """
    path = ablation_path(name)
    every, name = read_ablation(path, request, output_name), slug(output_name or path.stem)
    chosen = choose(every, cells)
    jobs = {cell: cell.jobs() for cell in every}
    wanted = [job for cell in chosen for job in jobs[cell]]
    out = Path(request.out, "ablations")

    def table() -> Sheet:
        """Chosen cells, and others that have a result; the rest is named as not run."""
        settings = (by_key(cell.request.settings) for cell in every)
        lines = [line_of(one.name, jobs[one], own, one.group, one.reference) for one, own in zip(every, settings)]
        not_run = [cell.name for cell, line in zip(every, lines) if not line.values and cell not in chosen]
        return ablation_sheet(name, [line for line in lines if line.name not in not_run], not_run)

    title = f"{name}: {len(chosen)} of {len(every)} cells, {len(wanted)} runs in {out / name}"
    run_cells(title, wanted, table, out, **how)


def by_draw(jobs: Sequence[Job]) -> dict[Draw, list[Job]]:
    """The runs of each draw, which pairs those of cells: (seed,), or (seed, fold). The run of base classes comes first."""
    draws: dict[Draw, list[Job]] = {}
    for job in jobs:
        data = job.cfg.DATASET
        draws.setdefault((job.seed, data.HOLDOUT_FOLD) if data.HOLDOUT_FOLDS else (job.seed,), []).append(job)
    return draws


def run_cells(
    title: str,
    jobs: Sequence[Job],
    table: Callable[[], Sheet],
    folder: Path,
    *,
    parallel: int = 1,
    dry_run: bool = False,
    verbose: bool = False,
) -> None:
    """Run what is not finished draw by draw, so that what is interrupted has whole draws of all cells; write the table.

    Args:
        title: what is run, in a line.
        table: makes it of the result files. folder: where it is written.
        dry_run: only say what would be run.
        parallel, verbose: as `execute` takes them.
    Raises RunError: at the end, if a run failed; lists all that did.
    """
    log.info("%s", title)
    if dry_run:
        show_plan(jobs)
        return
    ordered = [job for some in by_draw(jobs).values() for job in some]
    failures = execute(ordered, parallel=parallel, verbose=verbose)
    sheet = table()
    print_sheet(sheet)
    log.info("Written: %s", ", ".join(map(str, write_sheet(sheet, folder))))
    raise_failures(failures, len(jobs))


def line_of(name: str, jobs: Sequence[Job], settings: dict[str, str], group: str = "", reference: str = "") -> Line:
    """A cell's line in a table: the measures of each draw that is there, and problems (those that say the same as one)."""
    draws, job = by_draw(jobs), jobs[0]
    values: dict[Draw, dict[str, float]] = {}
    data: dict[Draw, str] = {}
    missing: dict[str, list[str]] = {}
    measure = (getattr(job.data.cls, "task", None) or Classification()).primary
    for draw, some in draws.items():
        whys = ((one.stage.split, why_run(one, {"config": store.config_digest(one.cfg)})) for one in some)
        problem = next((f"{split}: {why}" for split, why in whys if why), "")
        if problem:
            missing.setdefault(problem, []).append(" fold ".join(map(str, draw)))
            continue
        base, new = store.read_result(some[0].folder), store.read_result(some[-1].folder)
        values[draw], data[draw], measure = measures_of(base, new), base["digests"]["data"], store.measure_of(base)
    facts = {"method": job.method, "recipe": job.recipe, "dataset": job.dataset, "shots": job.request.shots}
    problems = tuple(f"{problem} (seed {', '.join(seeds)})" for problem, seeds in missing.items())
    return Line(name, group, reference, {**facts, "settings": settings}, tuple(draws), values, data, measure, problems)


def own_settings(settings: dict[str, Any], method: str) -> tuple[str, ...]:
    """KEY VALUE pairs as on a command line; a key without a dot belongs to the trainer's section, else to the learner's.

    Raises ConfigError: a key that is not in upper case, or in neither section.
    """
    options = {section: cls.OPTIONS for section, cls in discover.classes_with_options().items()}
    sections, pairs = sections_of(method), list[str]()
    for key, value in settings.items():
        if not re.fullmatch(r"[A-Z0-9_]+(\.[A-Z0-9_]+)*", str(key)):
            raise ConfigError(f"setting {key!r}: expected KEY or SECTION.KEY in upper case, such as W or OPTIM.LR")
        # of a trainer without a table of settings planning finds what it lacks
        section = next((section for section in sections if key in options.get(section, (key,))), None)
        if "." not in key and section is None:
            there = "; ".join(f"{section}: {', '.join(options[section])}" for section in sections)
            raise ConfigError(f"{method} has no setting {key}; there are {there}")
        pairs += [key if "." in key else f"{section}.{key}", str(value)]
    return tuple(pairs)


def by_key(settings: Sequence[str]) -> dict[str, str]:
    """KEY VALUE pairs of a command line as a dictionary."""
    return dict(zip(settings[::2], settings[1::2]))


def slug(name: str) -> str:
    """A name as a folder: letters, digits and - _ . = , stay, all else becomes one "-". Raises ConfigError: empty."""
    folder = re.sub(r"[^A-Za-z0-9_.=,]+", "-", name).strip("-.")
    if not folder:
        raise ConfigError(f"name {name!r} has no letter or digit to name a folder with")
    return folder


def numbers(values: Any) -> tuple[int, ...]:
    """Seeds: whole numbers and ranges, in one text or one by one: [1, "4-6"] or "1 4-6" -> (1, 4, 5, 6). Raises ConfigError."""
    found: list[int] = []
    for text in " ".join(map(str, values if isinstance(values, (list, tuple)) else [values])).split():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"seeds {text!r}: expected whole numbers from 0 or ranges, such as 1 2 3 or 101-120")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))
