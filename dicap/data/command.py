"""The command `dicap data`: what the datasets need (list), and how to have it (download, prepare, verify).

NAME is a file in configs/datasets, or `all` for the eleven datasets of the benchmark; COMMANDS says what each one does.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dicap.config import build_cfg, config_path
from dicap.data.named import OWN, PUBLISHED, SHIFTS, find_dataset, path_hint, registered
from dicap.data.sources import Source
from dicap.data.split import DatasetError
from dicap.options import ConfigError

Datasets = dict[str, Any]  # name of the dataset file -> registered class
COMMANDS = {  # help, description
    "list": (
        "what they need, from where, how large, which licence",
        "Works offline. With a name: that dataset in full.",
    ),
    "download": ("fetch what is missing, check and unpack it", "Repeated after a break, it goes on where it was."),
    "prepare": (
        "use what is on disk: unpack, copy class names",
        "No network. Archives may lie in the data folder, too.",
    ),
    "verify": (
        "check split, counts, class names, all images",
        "A path is checked as your own data (docs/your-data.md).",
    ),
}


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands to the parser of `dicap data`."""
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="|".join(COMMANDS))
    for name, (text, description) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=description)
        add, needed = command.add_argument, name in ("download", "prepare")
        add("names", nargs="*" if name == "list" else "+", metavar="NAME", help="files in configs/datasets, or `all`")
        add("--data", default="", required=needed, metavar="DIR", help="folder that holds the datasets' folders")
        add("--plugin", action="append", default=[], metavar="FILE.py", help="also the dataset of this file")
        add("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of any error")
    listing, download, prepare, verify = (commands.choices[name].add_argument for name in COMMANDS)
    text = "the sections of docs/datasets.md: printed, or renewed in FILE"
    listing("--markdown", nargs="?", const="-", default="", metavar="FILE", help=text)
    download("--keep", action="store_true", help="keep the archives that were unpacked")
    download("--optional", action="store_true", help="the files that runs do not need, too")
    text = "draw a split from the official lists where there is no split file: not the published one"
    prepare("--regenerate", action="store_true", help=text)
    verify("--set", nargs="+", default=[], dest="settings", metavar="KEY VALUE", help="such as DATASET.FOLDER.SPLIT")


def run_data(args: argparse.Namespace) -> int:
    """Run the sub-command; returns the exit code."""
    from dicap.choose_engine import choose_engine
    from dicap.console import show_log
    from dicap.discover import load_plugin

    choose_engine()
    show_log()
    for path in args.plugin:
        load_plugin(path)
    data = Path(args.data).expanduser().absolute() if args.data else None
    commands: dict[str, Any] = {"list": _list, "download": _download, "prepare": _prepare, "verify": _verify}
    return commands[args.data_command](args, data)


def datasets() -> Datasets:
    """The registered datasets with a file and stated facts: the benchmark's, its shifts, the others."""
    classes = {name: cls for name, cls in registered().items() if name != OWN and hasattr(cls, "sources")}
    return {name: classes[name] for name in dict.fromkeys((*PUBLISHED, *SHIFTS, *classes)) if name in classes}


def chosen(names: Sequence[str]) -> Datasets:
    """Datasets by name; `all` are the benchmark's, without shifts and embedded ones. Raises ConfigError with the list."""
    known = datasets()
    for name in names:
        if name != "all" and name not in known:
            raise ConfigError(f"unknown dataset {name!r}; allowed: {', '.join(known)}, all{path_hint(name)}")
    wanted = [stem for name in names for stem in (PUBLISHED if name == "all" else [name])]
    return {name: known[name] for name in dict.fromkeys(wanted)}


def _list(args: argparse.Namespace, data: Path | None) -> int:
    from dicap.data.listing import print_list, print_sections, renew, section

    classes = chosen(args.names) if args.names else datasets()
    text = "\n".join(section(name, cls, data) for name, cls in classes.items())
    if args.markdown not in ("", "-"):
        renew(Path(args.markdown), text)
    elif args.markdown or args.names:
        print_sections(text, rendered=not args.markdown)
    else:
        print_list(classes, data)
    return 0


def _download(args: argparse.Namespace, data: Path) -> int:
    from dicap.data.prepare import obtain

    return _each_source(args, data, lambda cls, source: obtain(source, data / cls.folder, args.keep), args.optional)


def _prepare(args: argparse.Namespace, data: Path) -> int:
    from dicap.data.prepare import from_disk, regenerate

    def use(cls: Any, source: Source) -> str:
        done = from_disk(source, data / cls.folder)
        if not done and not source.optional and not (args.regenerate and source.file == cls.split_file):
            way = source.note if source.manual else f"`dicap data download` gets it from {source.place}"
            raise DatasetError(f"{source.file} is not there; {way}")
        return done

    code = _each_source(args, data, use, optional=True)
    for name, cls in chosen(args.names).items() if args.regenerate else ():
        try:
            print(f"{name}: {regenerate(cls.unread(folder=data / cls.folder))}", flush=True)
        except (DatasetError, OSError) as error:  # verify finds what is missing
            print(f"{name}: no split was drawn: {error}", flush=True)
    return _verify(args, data) | code


def _each_source(args: argparse.Namespace, data: Path, work: Callable[[Any, Source], str], optional: bool) -> int:
    """Run work(class, source) for every source and print a line for each; 1 where a needed one failed."""
    from dicap.data.listing import no_source

    code = 0
    for name, cls in chosen(args.names).items():
        if not cls.sources:
            print(f"{name}: {no_source(cls, data)}", flush=True)
        for source in (source for source in cls.sources if optional or not source.optional):
            try:
                done = work(cls, source)
                if done:
                    print(f"{name}: {source.file}: {done}", flush=True)
            except (DatasetError, OSError) as error:
                print(f"{name}: FAILED: {error}", flush=True)
                code = code if source.optional else 1
    return code


def _verify(args: argparse.Namespace, data: Path | None) -> int:
    from dicap.data.listing import print_findings
    from dicap.data.prepare import verify

    benchmark, root = chosen(["all"]) if "all" in args.names else {}, data or Path()
    if benchmark and not (data and data.is_dir()):
        raise ConfigError(f"`all` needs the data folder: --data {f'{data} is not there' if data else 'DIR'}")
    absent = [stem for stem, cls in benchmark.items() if stem not in args.names and not (root / cls.folder).is_dir()]
    names = [name for name in dict.fromkeys((*args.names, *benchmark)) if name != "all" and name not in absent]
    findings = []
    for item in [find_dataset(name, str(data or "")) for name in names]:
        opts, file = [*item.settings, *getattr(args, "settings", [])], config_path("datasets", item.config)
        cfg = build_cfg(file, trainer="ZeroshotCLIP", opts=opts, root=str(data or ""))
        findings.append(verify(item.cls, cfg, item.name))
    print_findings(findings, absent)
    return int(not findings or any(finding.problems for finding in findings))
