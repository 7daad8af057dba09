"""What `dicap PROTOCOL` does: plan a comparison, say what of it is missing or finished, run the rest, end with the tables.

dicap base2new                                              # the embedded default: four methods, two datasets
dicap few_shot --data /path --datasets caltech101 --methods DiCap --jobs 2
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from dicap import results as store
from dicap.data.named import Data, missing
from dicap.experiments.cost import show_costs
from dicap.experiments.executor import execute, raise_failures
from dicap.experiments.finished import why_run
from dicap.experiments.protocols import Job, Protocol, Request, many, plan
from dicap.options import ConfigError

log = logging.getLogger(__name__)


def run_protocol(
    protocol: Protocol,
    request: Request,
    *,
    shots: Sequence[int] = (),
    policy: str = "",
    dry_run: bool = False,
    measure: bool = False,
    parallel: int = 1,
    verbose: bool = False,
) -> None:
    """Plan, skip, run, tabulate.

    Args:
        shots: training images a class, one comparison each; empty = the protocol's.
        policy: of datasets that are not there: skip or refuse; "" = skip those of `all`, refuse those that are named.
        dry_run: only say what would be run, and what it costs.
        measure: in a dry run, make short trials of what has not run.
        parallel, verbose: as `execute` takes them.
    Raises ConfigError: before any work; RunError: at the end, if a run failed; it lists all that did.
    """
    from dicap.report.report import write_report

    shots = tuple(dict.fromkeys(shots or protocol.shots))
    jobs = [job for number in shots for job in plan(protocol, dataclasses.replace(request, shots=number))]
    datasets, methods = (dict.fromkeys(some) for some in zip(*((j.dataset, f"{j.method} ({j.recipe})") for j in jobs)))
    what = f"{', '.join(datasets)}; {', '.join(methods)}; seeds {' '.join(map(str, request.seeds))}"
    where = Path(request.out, protocol.name)
    log.info("%s: %d runs (%s; %s shots) in %s", protocol.name, len(jobs), what, " ".join(map(str, shots)), where)
    absent = absent_datasets(jobs, request, policy, dry_run)
    if dry_run:
        show_costs(show_plan(jobs, absent), request.out, measure)
        return
    there = [job for job in jobs if job.data not in absent]
    failures = execute(there, parallel=parallel, verbose=verbose)
    try:
        log.info("Written: %s", ", ".join(map(str, write_report(request.out, [protocol.name]))))
    except store.ResultError:
        log.info("No table: nothing below %s is finished", request.out)
    if absent:
        log.info("Not run, the data are not there: %s", ", ".join(data.name for data in absent))
    raise_failures(failures, len(there))


def absent_datasets(jobs: Sequence[Job], request: Request, policy: str = "", dry_run: bool = False) -> list[Data]:
    """The datasets of a plan that are not there, each named with the command that gets it.

    Raises ConfigError: they are refused, or nothing is left to run; in a dry run this is only said.
    """
    why = {data: missing(data, request.data) for data in dict.fromkeys(job.data for job in jobs)}
    absent = [data for data, reason in why.items() if reason]
    sources = {job.depends_on.data for job in jobs if job.depends_on and job.depends_on.data != job.data}
    named = request.datasets if not policy else ()
    refused = [data for data in absent if data in sources or policy == "refuse" or data.name in named]
    for data in absent:
        verdict = "refused" if data in refused else "skipped"
        command = f"dicap data download {data.name} --data {request.data}"
        log.info("%s is missing (%s): %s; get it with: %s", data.name, why[data], verdict, command)
    if refused and not dry_run:
        skip = "MISSING=skip (--missing skip) leaves them out"
        hint = "prompts are trained on it" if sources.intersection(refused) else skip
        raise ConfigError(f"missing below {request.data}: {', '.join(data.name for data in refused)}; {hint}")
    if len(absent) == len(why) and not dry_run:
        raise ConfigError(f"no dataset of this comparison is in {request.data}; `dicap data list` tells what there is")
    return absent


def show_plan(jobs: Sequence[Job], absent: Sequence[Data] = ()) -> list[Job]:
    """Print each run and whether it is finished; nothing is run. Returns those to run whose data are there.

    Data are read only where a result is there.
    """
    remade: dict[Path, Job] = {}
    there = [job for job in jobs if job.data not in absent]
    for data in absent:
        log.info("%s: %s without data", data.name, many(sum(job.data == data for job in jobs), "run"))
    for job in there:
        try:
            why = why_run(job)
        except (ValueError, OSError) as error:
            why = f"its data cannot be read: {error}"
        if not why and job.depends_on and job.depends_on.folder in remade:
            why = "its prompt will be trained again"
        if why:
            remade[job.folder] = job
        log.info("%s: %s", job.name, f"to run ({why})" if why else "finished")
    without = f", {len(jobs) - len(there)} without data" if absent else ""
    log.info("%d to run, %d finished%s", len(remade), len(there) - len(remade), without)
    return list(remade.values())
