"""The command `dicap`, and train.py's; `_parser` says what each command is for.

Only what a command needs is imported, so that --help answers at once.
"""

import argparse
import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

USAGE_ERROR, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143
GOES_ON = "Finished runs are skipped, interrupted ones go on; a failing run is listed at the end and the others go on."


def main(argv: Sequence[str] | None = None, default: str = "") -> int:
    """Run a command; returns its exit code: 0, 1 (a run failed), 2 (what was asked for cannot be), 130 or 143 (stopped).

    SIGTERM, with which schedulers stop a process, ends it as Ctrl-C does. Errors of this package are messages for the
    user; any other is a bug and shows its traceback.

    Args:
        argv: the arguments, None = the process's.
        default: the command where the first argument names none ("train" for train.py).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin starve a busy machine
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_interrupts():
            return _run(argv, default) or 0
    except KeyboardInterrupt as interrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return interrupt.args[0] if interrupt.args else INTERRUPTED
    except BrokenPipeError:  # `dicap options | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        return _show_error(error, "--debug" in argv)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt(TERMINATED)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(argv: list[str], default: str) -> int | None:
    from dicap.experiments.protocols import PROTOCOLS

    if default and not (argv and argv[0] in {*COMMANDS, *PROTOCOLS}):
        argv = [default, *argv]
    if argv[:1] == ["world"]:  # it has a command line of its own
        return COMMANDS["world"](argv[1:])
    args = _parser(default, PROTOCOLS).parse_args(argv)
    return COMMANDS.get(args.command, _protocol)(args)


def _show_error(error: Exception, debug: bool) -> int:
    ours = type(error).__module__.startswith("dicap") or isinstance(error, (OSError, FloatingPointError))
    last = traceback.extract_tb(error.__traceback__)[-1]  # a ValueError of a `raise` of this package is a message, too
    raised = (last.line or "").startswith("raise ") and Path(last.filename).is_relative_to(Path(__file__).parent)
    package = (getattr(error, "name", "") or "dicap").partition(".")[0]
    lacking = isinstance(error, ModuleNotFoundError) and package not in ("dicap", "datasets", "trainers")
    if debug or not (ours or lacking or (raised and isinstance(error, (ValueError, KeyError)))):
        traceback.print_exc()
    sys.stdout.flush()
    way = "install what dicap needs with `python -m pip install .` in its folder, or activate its environment"
    lack = f"{error} (of {sys.executable}): {way} (scripts: PYTHON=/path/to/python)"
    name = type(error).__name__
    print(f"dicap: {lack if lacking else f'{name}: {error}'}", file=sys.stderr)
    return USAGE_ERROR if lacking or name in ("ConfigError", "EngineError") else FAILURE


def _parser(default: str, protocols: dict[str, Any]) -> argparse.ArgumentParser:
    from dicap.data.command import add_data

    parser = argparse.ArgumentParser(
        prog="dicap",
        description="Causality-aligned prompt learning with diffusion counterfactuals, beside CoOp and CoCoOp.",
        epilog="`dicap COMMAND --help` explains a command. The whole comparison on embedded data: dicap base2new",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        prog="train.py" if default == "train" else None,
        help="train and test one method on one dataset (train.py's flags)",
        description="Train and test one method on one dataset; the flags are CoOp's.",
        epilog="Merge order: dataset file, config file, flags, KEY VALUE pairs; keys: `dicap options METHOD`.",
    )
    _add_train(train)
    for name, protocol in protocols.items():
        command = commands.add_parser(
            name,
            help=protocol.summary,
            description=f"{protocol.summary.capitalize()}. {GOES_ON} docs/protocols.md tells what it fixes.",
            epilog=f"Without --data: {', '.join(protocol.embedded)}, tiny CLIP, recipe `tiny`. With --data: ViT-B/16, the"
            f" published recipes, and `all`: {', '.join(protocol.everything)}.",
        )
        _add_protocol(command, protocol)
    ablations = commands.add_parser(
        "ablations",
        help="compare many variants over the same seeds, in pairs",
        description=f"Compare each cell of a file base-to-new with its reference cell, in pairs. {GOES_ON}",
        epilog="The table goes to OUT/ablations/NAME.md, .csv and .json; docs/protocols.md shows the form of the file.",
    )
    _add_ablations(ablations)
    select = commands.add_parser(
        "select",
        help="choose a method's settings by class hold-out",
        description="Choose settings on the training shots of the base classes alone: no test image and no new class is read.",
        epilog="Table: OUT/select/DATASET_METHOD_RECIPE_SHOTS.md, .csv, .json. docs/protocols.md tells the rule.",
    )
    _add_select(select)
    report = commands.add_parser(
        "report",
        help="tables from the result files below a folder",
        description="Tables of protocols, costs and pairs: here, as report.html, .md, .csv, .json and .tex; docs/report.md explains them.",
    )
    _add(report, "output", "output folder of one or more runs")
    text = "compare these two over the same seeds and data (default: DiCap with each other method)"
    _add(report, "--compare METHOD", text, [], nargs=2)
    text = "every setting of a method or dataset: default, choices, reason"
    options = commands.add_parser("options", help=text, description=f"Print {text}.")
    _add(options, "name", "method or dataset; without it, the names there are", nargs="?")
    _add(options, "--plugin FILE.py", "also those of this file", [], action="append")
    add_data(commands.add_parser("data", help="what the datasets need: list, download, prepare, verify"))
    commands.add_parser("world", add_help=False, help="the generated image world and its tiny CLIP")
    for command in commands.choices.values():
        _add(command, "--debug", "show the traceback of any error")
    return parser


def _add(parser: argparse.ArgumentParser, name: str, text: str, default: Any = "", **settings: Any) -> None:
    """Add "name", the switch "--flag", "--flag VALUE" (a number where the default is one), or "--flag VALUE ..." for several."""
    flag, _, value = name.partition(" ")
    if value.endswith(" ..."):
        settings, default = {"metavar": value[:-4], "nargs": "+", **settings}, [] if default == "" else default
    elif value:
        settings = {"metavar": value, **({"type": int} if isinstance(default, int) else {}), **settings}
    elif flag.startswith("-") and not settings:
        settings, default = {"action": "store_true"}, False
    parser.add_argument(flag, help=text, default=default, **settings)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    text = "auto: an installed Dassl.pytorch that can run here, else the built-in engine (default)"
    _add(parser, "--engine", text, "auto", choices=("auto", "dassl", "builtin"))
    text = "a trainer, learner or dataset file outside of the package; may be repeated"
    _add(parser, "--plugin FILE.py", text, [], action="append")


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(_add, parser)
    add("--root ROOT", "folder that holds the datasets' folders; embedded datasets need none")
    add("--output-dir DIR", "folder of this run")
    add("--resume RESUME", "folder of a run to go on from (default: the output folder, if it holds one)")
    add("--config-file FILE", "configs/trainers/METHOD/RECIPE.yaml")
    add("--dataset-config-file FILE", "configs/datasets/NAME.yaml")
    add("--trainer TRAINER", "method; DiCap:CLIPAdapter also names the learner that it trains")
    add("--backbone BACKBONE", "CLIP: tiny, RN50, ViT-B/16, a file ...")
    add("--head HEAD", "head, for Dassl's own trainers")
    add("--model-dir DIR", "folder of the run whose prompt --eval-only tests")
    add("--seed SEED", "0 or more fixes it; -1 does not (default)", -1)
    add("--source-domains NAME ...", "source domains of a DA/DG dataset", None)
    add("--target-domains NAME ...", "target domains of a DA/DG dataset", None)
    add("--transforms NAME ...", "augmentations of the training images", None)
    add("--eval-only", "load from --model-dir and test")
    add("--load-epoch N", "epoch to load (default: best, else last)", None, type=int)
    add("--no-train", "build everything, train nothing")
    _add_engine(parser)
    add("opts", "settings, such as DATASET.NUM_SHOTS 16", nargs=argparse.REMAINDER, metavar="KEY VALUE")


def _add_protocol(parser: argparse.ArgumentParser, protocol: Any) -> None:
    add = functools.partial(_add, parser)
    add("--methods NAME ...", "CoOp, DiCap:CLIPAdapter (trainer:learner) ...; default: ZeroshotCLIP CoOp CoCoOp DiCap")
    text = "files in configs/datasets, `all`, or paths of your own images (class folders, a CSV, a split JSON)"
    add("--datasets NAME ...", f"{text}; default: embedded ones, all with --data")
    if protocol.source:
        embedded, real = protocol.source.embedded[0], protocol.source.everything[0]
        add("--source NAME", f"dataset to train on (default: {embedded}, {real} with --data)")
    add("--seeds N ...", "default: 1 2 3", type=int)
    shots = " ".join(map(str, protocol.shots))
    add("--shots N ...", f"training images a class, several make a comparison each (default: {shots})", type=int)
    text = "recipe for every method, a file in configs/trainers/METHOD (default: see below)"
    add("--config NAME", text, dest="recipe")
    text = "datasets that are not below --data (default: skip those of `all`, refuse those that are named)"
    add("--missing", text, choices=("skip", "refuse"))
    add("--measure", "with --dry-run: measure time and memory of what has not run yet, by short trials")
    _add_runs(parser)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    """What the commands that plan and run many runs share."""
    add = functools.partial(_add, parser)
    add("--backbone NAME", "CLIP instead of the recipe's")
    add("--data PATH", "folder that holds the datasets' folders")
    add("--out PATH", "output folder (default: output)", "output")
    add("--jobs N", "runs at a time, each in a process on one thread (default: 1, in this process)", 1)
    add("--dry-run", "print the plan and what is finished; run nothing")
    add("--verbose", "show the runs' logs too (they are in their log.txt)")
    _add_engine(parser)
    add("--set KEY VALUE ...", "settings for every run, such as OPTIM.MAX_EPOCH 20", dest="settings")


def _add_ablations(parser: argparse.ArgumentParser) -> None:
    add, default = functools.partial(_add, parser), "causal_shapes"
    text = f"a file in configs/ablations, or a .yaml file (default: {default})"
    add("name", text, default, nargs="?", metavar="NAME")
    add("--cells NAME ...", "run these cells, or groups of cells; the table has all")
    add("--seeds N ...", "instead of the file's: 1 2 3, or 101-120")
    add("--shots N", "training images a class instead of the file's", 0)
    text = "name of the output instead of the file's, for a variant made by --shots, --set ..."
    add("--as NAME", text, dest="output_name")
    add("--config NAME", "recipe instead of the file's", dest="recipe")
    _add_runs(parser)


def _add_select(parser: argparse.ArgumentParser) -> None:
    add, default = functools.partial(_add, parser), "causal_shapes"
    add("--method NAME", "default: DiCap", "DiCap")
    add("--dataset NAME", f"a file in configs/datasets, or the path of your own images (default: {default})", default)
    text = "values to try; several keys make a product; a key without a dot is one of the method's own"
    add("--grid KEY=V,V ...", f"{text} (default: OPTIM.MAX_EPOCH=5,10,20,50)", action="extend")
    add("--folds N", "parts of the base classes (default: 5)", 5)
    add("--seeds N ...", "1 2 3, or 1-3 (default)", "1-3")
    add("--shots N", "training images a class (default: 16)", 16)
    add("--config NAME", "recipe, a file in configs/trainers/METHOD (default: as for base2new)", dest="recipe")
    _add_runs(parser)


def _start(args: argparse.Namespace) -> None:
    """Choose the engine, say which, load plugins."""
    from dicap.console import show_log
    from dicap.experiments.run import engine_line

    line = engine_line(args.engine)
    from dicap.discover import load_plugin

    show_log()
    for path in args.plugin:
        load_plugin(path)
    if args.command != "train":  # a single run says so itself, as the first line of its log
        print(line, flush=True)


def _train(args: argparse.Namespace) -> None:
    _start(args)
    from dicap import results as store
    from dicap.config import FLAGS, build_cfg, method_of, recipe_of
    from dicap.experiments.executor import at_work
    from dicap.experiments.protocols import protocol_of
    from dicap.experiments.run import run

    flags = {flag: getattr(args, flag) for flag in FLAGS if flag != "trainer"}
    cfg = build_cfg(args.dataset_config_file, args.config_file, args.trainer, args.opts, **flags)
    trained_on = ""  # as the result says of the run whose prompt is tested
    with contextlib.suppress(store.ResultError):
        trained_on = store.read_result(args.model_dir)["dataset"] if args.model_dir else ""
    with at_work(cfg.OUTPUT_DIR):
        run(
            cfg,
            eval_only=args.eval_only,
            model_dir=args.model_dir,
            load_epoch=args.load_epoch,
            no_train=args.no_train,
            protocol=protocol_of(cfg.OUTPUT_DIR),
            dataset=Path(args.dataset_config_file).stem,
            recipe=recipe_of(method_of(cfg), args.config_file),
            trained_on=trained_on,
        )


def _protocol(args: argparse.Namespace) -> None:
    from dicap.experiments.protocols import PROTOCOLS
    from dicap.options import ConfigError

    if args.measure and not args.dry_run:
        raise ConfigError("--measure goes with --dry-run: it makes short trials in place of the runs")
    own = {key: vars(args).get(key) for key in ("methods", "datasets", "seeds", "source")}
    request, how = _request_and_how(args, **own)
    from dicap.experiments.driver import run_protocol

    how |= {"shots": args.shots, "policy": args.missing, "measure": args.measure}
    run_protocol(PROTOCOLS[args.command], request, **how)


def _ablations(args: argparse.Namespace) -> None:
    request, how = _request_and_how(args, shots=args.shots)
    from dicap.experiments.ablations import run_ablations

    run_ablations(args.name, request, cells=args.cells, output_name=args.output_name, **how)


def _select(args: argparse.Namespace) -> None:
    request, how = _request_and_how(args, methods=[args.method], datasets=[args.dataset], shots=args.shots)
    from dicap.experiments.selection import run_selection

    run_selection(args.grid, request, folds=args.folds, **how)


def _request_and_how(args: argparse.Namespace, **values: Any) -> tuple[Any, dict[str, Any]]:
    """What the commands that make many runs are asked for: a Request, and how it is run. Starts the engine."""
    from dicap.experiments.protocols import request_of
    from dicap.options import ConfigError

    if args.jobs < 1 or (args.verbose and args.jobs > 1):
        raise ConfigError(f"--jobs {args.jobs}: expected 1 or more, and 1 with --verbose, lest the logs mix")
    _start(args)
    from dicap.experiments.ablations import numbers

    shared = {key: getattr(args, key) for key in ("recipe", "backbone", "data", "out", "settings")}
    request = request_of(**{**shared, "seeds": numbers(args.seeds), **values})
    return request, {"parallel": args.jobs, "dry_run": args.dry_run, "verbose": args.verbose}


def _report(args: argparse.Namespace) -> None:
    from dicap.report.report import write_report

    print("Written:", ", ".join(map(str, write_report(args.output, compare=args.compare))))


def _options(args: argparse.Namespace) -> None:
    from dicap.choose_engine import choose_engine

    choose_engine()
    from dicap import discover
    from dicap.options import ConfigError

    for path in args.plugin:
        discover.load_plugin(path)
    discover.load_all()
    found = dict(sorted(discover.classes_with_options().items()))
    if not args.name:
        print("\n".join(f"{cls.__name__:16} {section}" for section, cls in found.items()))
    for name in args.name.replace(":", "+").split("+") if args.name else []:
        section = next((key for key, cls in found.items() if cls.__name__.lower() == name.lower()), None)
        if section is None:
            names = ", ".join(cls.__name__ for cls in found.values())
            raise ConfigError(f"no method or dataset {name!r} with settings; there are: {names}")
        _print_options(section, found[section].OPTIONS)


def _print_options(section: str, options: dict[str, Any]) -> None:
    from dicap.console import make_console, rich_grid

    header, rows = ["Key", "Default", "Allowed", "Why"], []
    for key, option in options.items():
        least = f">= {option.least}" if option.least is not None else ""
        rows.append([key, repr(option.default), " ".join(map(str, option.choices)) or least, option.why])
    make_console().print(rich_grid(header, rows, section, header, fold=header[1:]))


def _data(args: argparse.Namespace) -> int:
    from dicap.data.command import run_data

    return run_data(args)


def _world(argv: list[str]) -> None:
    from dicap.world.__main__ import main as world

    world([arg for arg in argv if arg != "--debug"])


COMMANDS: dict[str, Any] = {  # beside the protocols
    "train": _train,
    "ablations": _ablations,
    "select": _select,
    "report": _report,
    "options": _options,
    "data": _data,
    "world": _world,
}

if __name__ == "__main__":
    sys.exit(main())
