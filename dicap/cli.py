"""The command `dicap`, and train.py's.

    dicap train ...       one run: train.py's flags, exactly as CoOp has them
    dicap base2new ...    a whole comparison: plan, run, table (what scripts/*/base2new.sh call); so are few_shot,
                          cross_dataset and domain_generalization
    dicap ablations ...   many variants over the same seeds, compared in pairs (scripts/dicap/ablations.sh)
    dicap select ...      settings chosen by class hold-out, without a test image or a new class (scripts/*/select.sh)
    dicap report OUTPUT   tables from the result files below a folder
    dicap data ...        what the datasets need: list, download, prepare, verify
    dicap options METHOD  every setting of a method, with its default and reason
    dicap world ...       the generated image world: pictures, pretraining of the tiny CLIP

Only what a command needs is imported, so that --help answers at once.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130

PROTOCOLS = {
    "base2new": (
        "compare methods: train on base classes, test on base and new ones",
        "Base-to-new comparison: for each dataset, method and seed, train on the first half of the classes, test on "
        "it and on the other half.",
    ),
    "few_shot": (
        "compare methods with 1, 2, 4, 8 and 16 shots of all classes",
        "Few-shot comparison: for each dataset, method, seed and number of shots, train on all classes and test on "
        "them.",
    ),
    "cross_dataset": (
        "test prompts of one dataset on other ones",
        "Cross-dataset comparison: for each method and seed, train on all classes of a source dataset, test that "
        "prompt on the classes of other datasets.",
    ),
    "domain_generalization": (
        "test prompts of one dataset on its shifts",
        "Domain generalisation: the training of cross_dataset, tested on shifts of the source dataset.",
    ),
}
FOLDERS = (
    ("base2new", "train_base"),
    ("base2new", "test_new"),
    ("few_shot", "train"),
    ("source", "train"),
    ("cross_dataset", "test"),
    ("domain_generalization", "test"),
)  # of results by hand too


def main(argv: Sequence[str] | None = None, default: str = "") -> int:
    """Run a command; returns its exit code: 0, 1 (a run failed), 2 (what was asked for cannot be).

    Args:
        argv: the arguments, None = the process's.
        default: the command where the first argument names none ("train" for train.py).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin starve a busy machine
    argv = list(sys.argv[1:] if argv is None else argv)
    if default and not (argv and argv[0] in COMMANDS):
        argv.insert(0, default)
    if argv[:1] == ["world"]:
        return _guarded(_world, argparse.Namespace(args=argv[1:], debug="--debug" in argv))
    args = _parser(default).parse_args(argv)
    return _guarded(COMMANDS[args.command], args)


def _guarded(command: Any, args: argparse.Namespace) -> int:
    """Errors of this package are messages for the user; any other is a bug and shows its traceback."""
    try:
        return command(args) or 0
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `dicap options | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        if _lacks_requirement(error) and not args.debug:
            print(
                f"dicap: {error} (of {sys.executable}): install what dicap needs with `python -m pip install .` in its folder, or "
                "activate the environment that has it (scripts: PYTHON=/path/to/python)",
                file=sys.stderr,
            )
            return USAGE_ERROR
        if args.debug or not _is_message(error):
            traceback.print_exc()
        sys.stdout.flush()
        print(f"dicap: {type(error).__name__}: {error}", file=sys.stderr)
        return USAGE_ERROR if type(error).__name__ in ("ConfigError", "EngineError") else FAILURE


def _lacks_requirement(error: Exception) -> bool:
    """No module of another package: this interpreter lacks what setup.py asks for."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "dicap").partition(".")[0] not in (
        "dicap",
        "datasets",
        "trainers",
    )


def _is_message(error: Exception) -> bool:
    return type(error).__module__.startswith("dicap") or isinstance(error, OSError)


def _parser(default: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicap",
        description="Causality-aligned prompt learning with diffusion counterfactuals, beside CoOp and CoCoOp.",
        epilog="`dicap COMMAND --help` explains a command. The whole comparison on embedded data: dicap base2new",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prog = "train.py" if default == "train" else None
    _add_train(
        commands.add_parser(
            "train",
            prog=prog,
            help="train and test one method on one dataset (train.py's flags)",
            description="Train and test one method on one dataset; the flags are CoOp's.",
            epilog="Merge order: dataset file, config file, flags, KEY VALUE pairs; keys: `dicap options METHOD`.",
        )
    )
    for name, (help_text, what) in PROTOCOLS.items():
        _add_protocol(
            name,
            commands.add_parser(
                name,
                help=help_text,
                description=f"{what} Ends with a table. Finished runs are skipped, interrupted ones go on; "
                "a failing run is listed at the end and the others go on.",
                epilog="Without --data: embedded datasets, tiny CLIP, recipe `tiny`. With --data: the real benchmark, ViT-B/16 and "
                "the published recipes. docs/protocols.md tells what the protocol fixes.",
            ),
        )
    _add_ablations(
        commands.add_parser(
            "ablations",
            help="compare many variants over the same seeds, in pairs",
            description="Run every cell of a file of ablations base-to-new over the same seeds, and compare each with the "
            "reference cell: paired differences with 95 % intervals. Finished runs are skipped, interrupted "
            "ones go on; a failing run is listed at the end and the others go on.",
            epilog="Runs go to OUT/ablations/NAME/CELL, the table to OUT/ablations/NAME.md, .csv and .json. The form of the "
            "file: configs/ablations/causal_shapes.yaml.",
        )
    )
    _add_select(
        commands.add_parser(
            "select",
            help="choose a method's settings by class hold-out",
            description="Choose settings on the training shots of the base classes alone: train on the classes of all folds "
            "but one, test on shots that were kept back and on the classes of that fold, take the point of the "
            "grid with the highest mean H over folds and seeds. No test image and no new class is read.",
            epilog="Runs go to OUT/select/DATASET/METHOD/POINT, the table to OUT/select/DATASET_METHOD_RECIPE_SHOTS.md, "
            ".csv and .json. docs/protocols.md tells the rule and its limits.",
        )
    )
    report = commands.add_parser(
        "report",
        help="tables from the result files below a folder",
        description="Gather the result.json files below a folder into the tables of every protocol there, of costs and "
        "of paired comparisons: in the terminal, as one page report.html, and as .md, .csv, .json and .tex "
        "in that folder. docs/report.md tells how to read them.",
    )
    report.add_argument("output", help="output folder of one or more runs")
    report.add_argument(
        "--compare",
        nargs=2,
        default=[],
        metavar="METHOD",
        help="compare these two over the same seeds and data (default: DiCap with each other method)",
    )
    options = commands.add_parser(
        "options",
        help="every setting of a method or dataset: default, choices, reason",
        description="Print the settings of a method or dataset.",
    )
    options.add_argument("name", nargs="?", default="", help="method or dataset; without it, the names there are")
    options.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="also those of this file")
    _add_data(commands)
    commands.add_parser("world", add_help=False, help="the generated image world and its tiny CLIP")
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of any error")
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("auto", "dassl", "builtin"),
        default="auto",
        help="auto: an installed Dassl.pytorch that can run here, else the built-in engine (default)",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a trainer or dataset file outside of the package; may be repeated",
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    text = {
        "root": "folder that holds the datasets' folders; embedded datasets need none",
        "output-dir": "folder of this run",
        "resume": "folder of a run to go on from (default: the output folder, if it holds one)",
        "config-file": "configs/trainers/METHOD/RECIPE.yaml",
        "dataset-config-file": "configs/datasets/NAME.yaml",
        "trainer": "method",
        "backbone": "CLIP: tiny, RN50, ViT-B/16, a file ...",
        "head": "head, for Dassl's own trainers",
        "model-dir": "folder of the run whose prompt --eval-only tests",
    }
    for flag, help_text in text.items():
        parser.add_argument(f"--{flag}", default="", metavar=flag.rsplit("-", 1)[-1].upper(), help=help_text)
    parser.add_argument("--seed", type=int, default=-1, help="0 or more fixes it; -1 does not (default)")
    for flag, help_text in (
        ("source-domains", "source domains of a DA/DG dataset"),
        ("target-domains", "target domains of a DA/DG dataset"),
        ("transforms", "augmentations of the training images"),
    ):
        parser.add_argument(f"--{flag}", nargs="+", metavar="NAME", help=help_text)
    parser.add_argument("--eval-only", action="store_true", help="load from --model-dir and test")
    parser.add_argument("--load-epoch", type=int, metavar="N", help="epoch to load (default: best, else last)")
    parser.add_argument("--no-train", action="store_true", help="build everything, train nothing")
    _add_engine(parser)
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings, such as DATASET.NUM_SHOTS 16"
    )


def _add_protocol(name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: ZeroshotCLIP CoOp CoCoOp DiCap")
    parser.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        help="files in configs/datasets, `all`, or paths of your own images (a folder of class folders, a CSV, a "
        "split JSON); default: embedded ones, all with --data",
    )
    if name in ("cross_dataset", "domain_generalization"):
        parser.add_argument(
            "--source",
            default="",
            metavar="NAME",
            help="dataset to train on (default: causal_shapes, imagenet with --data)",
        )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 1 2 3")
    parser.add_argument(
        "--shots",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help=f"training images a class (default: {'1 2 4 8 16' if name == 'few_shot' else 16})",
    )
    parser.add_argument(
        "--config",
        dest="recipe",
        default="",
        metavar="NAME",
        help="recipe for every method, a file in configs/trainers/METHOD (default: see below)",
    )
    parser.add_argument(
        "--missing",
        choices=("skip", "refuse"),
        default="",
        help="what to do with datasets that are not below --data (default: skip those of `all`, refuse those "
        "that are named)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="with --dry-run: measure time and memory of what has not run yet, by short trials",
    )
    _add_runs(parser)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    """What the commands that plan and run many runs share."""
    parser.add_argument("--backbone", default="", metavar="NAME", help="CLIP instead of the recipe's")
    parser.add_argument("--data", default="", metavar="PATH", help="folder that holds the datasets' folders")
    parser.add_argument("--out", default="output", metavar="PATH", help="output folder (default: output)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what is finished; run nothing")
    parser.add_argument("--verbose", action="store_true", help="show the runs' logs too (they are in their log.txt)")
    _add_engine(parser)
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        dest="settings",
        metavar="KEY VALUE",
        help="settings for every run, such as OPTIM.MAX_EPOCH 20",
    )


def _add_ablations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        default="causal_shapes",
        metavar="NAME",
        help="a file in configs/ablations, or a .yaml file (default: causal_shapes)",
    )
    parser.add_argument(
        "--cells", nargs="+", default=[], metavar="NAME", help="run these cells, or groups of cells; the table has all"
    )
    parser.add_argument("--seeds", nargs="+", default=[], metavar="N", help="instead of the file's: 1 2 3, or 101-120")
    parser.add_argument(
        "--shots", type=int, default=0, metavar="N", help="training images a class instead of the file's"
    )
    parser.add_argument(
        "--as",
        dest="output_name",
        default="",
        metavar="NAME",
        help="name of the output instead of the file's, for a variant made by --shots, --set ...",
    )
    parser.add_argument("--config", dest="recipe", default="", metavar="NAME", help="recipe instead of the file's")
    _add_cells(parser)


def _add_select(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="DiCap", metavar="NAME", help="default: DiCap")
    parser.add_argument(
        "--dataset",
        default="causal_shapes",
        metavar="NAME",
        help="a file in configs/datasets, or the path of your own images (default: causal_shapes)",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=V,V",
        help="values to try; several keys make a product; a key without a dot is one of the method's own "
        "(default: OPTIM.MAX_EPOCH=5,10,20,50)",
    )
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="parts of the base classes (default: 5)")
    parser.add_argument("--seeds", nargs="+", default=["1-3"], metavar="N", help="1 2 3, or 1-3 (default)")
    parser.add_argument("--shots", type=int, default=16, metavar="N", help="training images a class (default: 16)")
    parser.add_argument(
        "--config",
        dest="recipe",
        default="",
        metavar="NAME",
        help="recipe, a file in configs/trainers/METHOD (default: as for base2new)",
    )
    _add_cells(parser)


def _add_cells(parser: argparse.ArgumentParser) -> None:
    """What the commands that run many cells share."""
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, each in a process on one thread (default: 1, in this process)",
    )
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


def _train(args: argparse.Namespace) -> int:
    _start(args)
    from pathlib import Path

    from dicap.config import build_cfg
    from dicap.experiments.run import run

    cfg = build_cfg(
        args.dataset_config_file,
        args.config_file,
        args.trainer,
        args.opts,
        root=args.root,
        output_dir=args.output_dir,
        resume=args.resume,
        seed=args.seed,
        source_domains=args.source_domains,
        target_domains=args.target_domains,
        transforms=args.transforms,
        backbone=args.backbone,
        head=args.head,
    )
    run(
        cfg,
        eval_only=args.eval_only,
        model_dir=args.model_dir,
        load_epoch=args.load_epoch,
        no_train=args.no_train,
        protocol=_protocol_of(cfg.OUTPUT_DIR),
        dataset=Path(args.dataset_config_file).stem,
        recipe=Path(args.config_file).stem,
        trained_on=_trained_on(args.model_dir),
    )
    return 0


def _protocol_of(folder: str) -> str:
    """The protocol whose paths an output folder follows (.../base2new/train_base/...), "" for any other."""
    parts = folder.replace(os.sep, "/").split("/")
    return next((protocol for protocol, stage in zip(parts, parts[1:]) if (protocol, stage) in FOLDERS), "")


def _trained_on(model_dir: str) -> str:
    """The dataset of the run whose prompt is tested, as its result says; "" where it says nothing."""
    from dicap import results as store

    try:
        return store.read_result(model_dir)["dataset"] if model_dir else ""
    except store.ResultError:
        return ""


def _protocol(args: argparse.Namespace) -> int:
    from dicap.options import ConfigError

    if args.measure and not args.dry_run:
        raise ConfigError("--measure goes with --dry-run: it makes short trials in place of the runs")
    _start(args)
    from dicap.experiments.driver import run_protocol
    from dicap.experiments.protocols import PROTOCOLS, request_of

    request = request_of(
        methods=args.methods,
        datasets=args.datasets,
        seeds=args.seeds,
        recipe=args.recipe,
        backbone=args.backbone,
        data=args.data,
        out=args.out,
        settings=args.settings,
        source=getattr(args, "source", ""),
    )
    run_protocol(
        PROTOCOLS[args.command],
        request,
        shots=args.shots,
        policy=args.missing,
        dry_run=args.dry_run,
        measure=args.measure,
        verbose=args.verbose,
    )
    return 0


def _ablations(args: argparse.Namespace) -> int:
    _start(args)
    from dicap.experiments.ablations import run_ablations
    from dicap.experiments.cells import numbers

    run_ablations(
        args.name,
        _request_of_cells(args, seeds=numbers(args.seeds), recipe=args.recipe, shots=args.shots),
        cells=args.cells,
        output_name=args.output_name,
        **_how_to_run(args),
    )
    return 0


def _select(args: argparse.Namespace) -> int:
    _start(args)
    from dicap.experiments.cells import numbers
    from dicap.experiments.selection import run_selection

    request = _request_of_cells(
        args,
        methods=(args.method,),
        datasets=(args.dataset,),
        seeds=numbers(args.seeds),
        recipe=args.recipe,
        shots=args.shots,
    )
    run_selection(args.grid, request, folds=args.folds, **_how_to_run(args))
    return 0


def _request_of_cells(args: argparse.Namespace, **values: Any) -> Any:
    from dicap.experiments.protocols import Request

    return Request(backbone=args.backbone, data=args.data, out=args.out, settings=tuple(args.settings), **values)


def _how_to_run(args: argparse.Namespace) -> dict[str, Any]:
    from dicap.options import ConfigError

    if args.jobs < 1 or (args.verbose and args.jobs > 1):
        raise ConfigError(f"--jobs {args.jobs}: expected 1 or more, and 1 with --verbose, lest the logs mix")
    return {
        "jobs": args.jobs,
        "dry_run": args.dry_run,
        "verbose": args.verbose,
        "engine": args.engine,
        "plugins": args.plugin,
    }


def _report(args: argparse.Namespace) -> int:
    from dicap.report.report import write_report

    print("Written:", ", ".join(map(str, write_report(args.output, compare=args.compare))))
    return 0


def _options(args: argparse.Namespace) -> int:
    from dicap.choose_engine import choose_engine

    choose_engine()
    from dicap import discover
    from dicap.options import ConfigError

    for path in args.plugin:
        discover.load_plugin(path)
    discover.load_all()
    found = discover.classes_with_options()
    by_name = {cls.__name__.lower(): section for section, cls in found.items()}
    if not args.name:
        print("\n".join(f"{cls.__name__:16} {section}" for section, cls in sorted(found.items())))
        return 0
    if args.name.lower() not in by_name:
        names = ", ".join(cls.__name__ for _, cls in sorted(found.items()))
        raise ConfigError(f"no method or dataset {args.name!r} with settings; there are: {names}")
    section = by_name[args.name.lower()]
    _print_options(section, found[section].OPTIONS)  # type: ignore[attr-defined]
    return 0


def _print_options(section: str, options: dict[str, Any]) -> None:
    from dicap.report.render import make_console, rich_grid

    header = ["Key", "Default", "Allowed", "Why"]
    rows = [
        [
            key,
            repr(option.default),
            " ".join(map(str, option.choices)) or (f">= {option.least}" if option.least is not None else ""),
            option.why,
        ]
        for key, option in options.items()
    ]
    make_console(140).print(rich_grid((header, rows), section, left=header, fold=header[1:]))


def _add_data(commands: Any) -> None:
    from dicap.data.command import add_data

    add_data(commands.add_parser("data", help="what the datasets need: list, download, prepare, verify"))


def _data(args: argparse.Namespace) -> int:
    from dicap.data.command import run_data

    return run_data(args)


def _world(args: argparse.Namespace) -> int:
    from dicap.world.__main__ import main as world

    sys.argv = ["dicap world", *(arg for arg in args.args if arg != "--debug")]
    world()
    return 0


COMMANDS = {
    "train": _train,
    **dict.fromkeys(PROTOCOLS, _protocol),
    "ablations": _ablations,
    "select": _select,
    "report": _report,
    "options": _options,
    "data": _data,
    "world": _world,
}

if __name__ == "__main__":
    sys.exit(main())
