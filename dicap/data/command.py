"""The command `dicap data`: what the datasets need, and how to have it.

    dicap data list [NAME ...] [--data DIR]        offline: files, addresses, sizes, licences, what is there
    dicap data download NAME ... --data DIR        fetches what is missing, checks and unpacks it
    dicap data prepare NAME ... --data DIR         the same from archives that lie there; no network
    dicap data verify NAME|PATH ... --data DIR     split, counts, class names and every image

NAME is a file in configs/datasets, or `all` for the eleven datasets of the benchmark.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicap.data.sources import Source
from dicap.data.split import DatasetError

Datasets = dict[str, Any]  # name of the file in configs/datasets -> registered class


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands to the parser of `dicap data`."""
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="list|download|prepare|verify")
    listing = commands.add_parser(
        "list",
        help="what the datasets need, from where, how large, under which licence",
        description="Works offline. With a name: that dataset in full.",
    )
    listing.add_argument("names", nargs="*", metavar="NAME", help="datasets, or `all`; none: a table of all")
    listing.add_argument(
        "--markdown",
        nargs="?",
        const="-",
        default="",
        metavar="FILE",
        help="the sections of docs/datasets.md: printed, or renewed in FILE",
    )
    download = commands.add_parser(
        "download",
        help="fetch what is missing, check it and unpack it",
        description="A broken download goes on where it was when the command is repeated.",
    )
    download.add_argument("--keep", action="store_true", help="keep the archives that were unpacked")
    download.add_argument("--optional", action="store_true", help="the files that runs do not need, too")
    prepare = commands.add_parser(
        "prepare",
        help="make usable what lies on disk: unpack, copy class names",
        description="No network. Archives may lie in the dataset's folder or in the data folder.",
    )
    prepare.add_argument(
        "--regenerate",
        action="store_true",
        help="draw a split from the official lists where no split file is to be had: not the published one",
    )
    verify = commands.add_parser(
        "verify",
        help="check split, counts, class names and every image",
        description="A path is checked as data of your own (docs/your-data.md).",
    )
    verify.add_argument(
        "--set", nargs="+", default=[], dest="settings", metavar="KEY VALUE", help="such as DATASET.FOLDER.SPLIT"
    )
    for command in (download, prepare, verify):
        command.add_argument("names", nargs="+", metavar="NAME", help="files in configs/datasets, or `all`")
    for name, command in commands.choices.items():
        command.add_argument(
            "--data",
            default="",
            required=name in ("download", "prepare"),
            metavar="DIR",
            help="folder that holds the datasets' folders",
        )
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of any error"
        )


def run_data(args: argparse.Namespace) -> int:
    """Run the sub-command; returns the exit code."""
    from dicap.choose_engine import choose_engine
    from dicap.experiments.run import show_log

    choose_engine()
    show_log()
    data = Path(args.data).expanduser().absolute() if args.data else None
    commands: dict[str, Any] = {"list": _list, "download": _download, "prepare": _prepare, "verify": _verify}
    return commands[args.data_command](args, data)


def datasets() -> Datasets:
    """The registered datasets with a file in configs/datasets: the benchmark's, its shifts, the others."""
    from dicap.data.named import OWN, PUBLISHED, SHIFTS, registered

    found = registered()
    return {name: found[name] for name in dict.fromkeys((*PUBLISHED, *SHIFTS, *found)) if name in found and name != OWN}


def chosen(names: Sequence[str]) -> Datasets:
    """Datasets by name; `all` are the benchmark's, without shifts and embedded ones. Raises ConfigError with the list."""
    from dicap.data.folder import path_hint
    from dicap.data.named import PUBLISHED
    from dicap.options import ConfigError

    known = datasets()
    for name in names:
        if name != "all" and name not in known:
            raise ConfigError(f"unknown dataset {name!r}; allowed: {', '.join(known)}, all{path_hint(name)}")
    wanted = [stem for name in names for stem in (PUBLISHED if name == "all" else [name])]
    return {name: known[name] for name in dict.fromkeys(wanted)}


def _list(args: argparse.Namespace, data: Path | None) -> int:
    from dicap.data.listing import print_list, print_sections, renew, section

    found = chosen(args.names) if args.names else datasets()
    if not args.markdown and not args.names:
        print_list(found, data)
        return 0
    text = "\n".join(section(name, cls, data) for name, cls in found.items())
    if args.markdown in ("", "-"):
        print_sections(text, rendered=not args.markdown)
    else:
        renew(Path(args.markdown), text)
    return 0


def _download(args: argparse.Namespace, data: Path) -> int:
    from dicap.data.prepare import obtain

    def get(cls: Any, source: Source, bars: tuple) -> str:
        return obtain(source, data / cls.folder, args.keep, *bars)

    return _each_source(args, get, args.optional)


def _prepare(args: argparse.Namespace, data: Path) -> int:
    from dicap.data.prepare import from_disk

    def use(cls: Any, source: Source, bars: tuple) -> str:
        done = from_disk(source, data / cls.folder, bars[1])
        if not done and not source.optional and not (args.regenerate and source.file == cls.split_file):
            raise DatasetError(f"{source.file} is not there; {_way(source)}")
        return done

    code = _each_source(args, use, optional=True)
    if args.regenerate:
        _regenerate(args, data)
    return _verify(args, data) | code


def _regenerate(args: argparse.Namespace, data: Path) -> None:
    """Draw the splits that are missing; what could not be drawn is said, and found by verify."""
    from dicap.data.prepare import regenerate

    for name, cls in chosen(args.names).items():
        try:
            print(f"{name}: {regenerate(cls.at(data / cls.folder))}", flush=True)
        except (DatasetError, OSError) as error:
            print(f"{name}: no split was drawn: {error}", flush=True)


def _each_source(args: argparse.Namespace, work: Any, optional: bool) -> int:
    """Run work(class, source, progress) for every source and print a line for each; 1 where a needed one failed."""
    code = 0
    for name, cls in chosen(args.names).items():
        if not cls.sources:
            print(f"{name}: nothing to do, it is written when first used", flush=True)
        for source in (source for source in cls.sources if optional or not source.optional):
            try:
                with _bars(source) as bars:
                    done = work(cls, source, bars)
                if done:
                    print(f"{name}: {source.file}: {done}", flush=True)
            except (DatasetError, OSError) as error:
                print(f"{name}: FAILED: {error}", flush=True)
                code = code if source.optional else 1
    return code


def _verify(args: argparse.Namespace, data: Path | None) -> int:
    from dicap.config import build_cfg, config_path
    from dicap.data.listing import print_findings
    from dicap.data.named import find_dataset
    from dicap.data.verify import verify
    from dicap.options import ConfigError

    if "all" in args.names and not (data and data.is_dir()):
        raise ConfigError(
            f"`all` needs the folder that holds the datasets' folders: --data {data or 'DIR'}"
            f"{' is not there' if data else ''}"
        )
    root = str(data or "")
    of_all = {name: cls for name, cls in chosen(["all"]).items() if "all" in args.names and name not in args.names}
    absent = [name for name, cls in of_all.items() if not (data and (data / cls.folder).is_dir())]
    wanted = [name for name in dict.fromkeys((*args.names, *of_all)) if name != "all" and name not in absent]
    findings = []
    for item in [find_dataset(name, root) for name in wanted]:
        opts = [*item.settings, *getattr(args, "settings", [])]
        cfg = build_cfg(config_path("datasets", item.config), trainer="ZeroshotCLIP", opts=opts, root=root)
        findings.append(verify(item.cls, cfg, item.name))
    print_findings(findings, absent)
    return int(not findings or any(finding.problems for finding in findings))


def _way(source: Source) -> str:
    return source.note if source.manual else f"`dicap data download` gets it from {source.place}"


@contextmanager
def _bars(source: Source) -> Iterator[tuple]:
    """Progress of a download and of the unpacking that follows, on a terminal."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    style = {"unit": "B", "unit_scale": True, "unit_divisor": 1000, "leave": False, "disable": None, "delay": 0.5}
    with (
        logging_redirect_tqdm([logging.getLogger()]),
        tqdm(desc=source.file, total=source.size or None, **style) as fetching,
        tqdm(desc=f"unpacking {source.file}", **style) as unpacking,
    ):

        def fetched(there: int, total: int) -> None:
            fetching.total = total or fetching.total
            fetching.update(there - fetching.n)

        yield fetched, unpacking.update
