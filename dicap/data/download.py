"""Gets a source's file: resumed where it broke off, checked, and only then given its name.

    fetch(Source("EuroSAT.zip", url="https://...", md5="..."), Path("DATA/eurosat"))

Plain addresses go through requests, Google Drive through gdown. torchvision's downloaders are not called, only their
records of addresses and digests are used: `download_url` writes to the final name, starts again after a break, waits without
end and turns https into http on an error; `extract_archive` unpacks whatever it is given.

Resuming: bytes go to `.NAME.part`, beside `.NAME.part.json` with the address and the validator (a strong ETag, else
Last-Modified). The next attempt asks for the rest with Range and If-Range, so that a file that has changed meanwhile is sent
whole; a server without a validator or without Range makes it start again. gdown resumes by length alone, so that only archives
are resumed with it: their own checksums (CRC-32) are checked as they are unpacked.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import IO, Any

import requests

from dicap.data.sources import Source, human
from dicap.data.split import DatasetError
from dicap.data.unpack import alone
from dicap.files import write_text

RECORD = "dicap_downloads.json"  # in a dataset's folder: what was fetched, from where, with which digest
BLOCK = 1 << 16  # a break costs at most one
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
BREAKS = 20  # broken connections of one download, each after new bytes
UNSATISFIABLE = requests.codes.requested_range_not_satisfiable
BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
Step = Callable[[int, int], Any]  # (bytes there are, bytes in all or 0)


class DownloadError(DatasetError):
    """A source that cannot be had; the message names its file, what happened and what to do."""


def fetch(source: Source, folder: Path, step: Step = lambda there, total: None) -> str:
    """Get a source's file into the dataset's folder.

    Returns:
        "sha256:..." of the file; it stands in the folder's RECORD too.
    Raises:
        DownloadError: by hand only, no connection, not there, too short, wrong digest, no room. Nothing is left but a
            part to go on from.
    """
    if source.manual:
        raise DownloadError(f"{source.file} has to be put into {folder} by hand: {source.note}")
    target = folder / source.file
    with _made(target.parent):
        part = target.with_name(f".{target.name}.part")
        (_from_drive if source.drive else _from_url)(source, part, step)
        found = _checked(source, part)
        os.replace(part, target)
        part.with_suffix(".part.json").unlink(missing_ok=True)
        record(source, folder, found)
    return found


def check_digests(source: Source, path: Path) -> str:
    """Compare a file with the digests that are known; returns its "sha256:...". Raises DownloadError."""
    digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            for digest in digests.values():
                digest.update(block)
    for name, digest in digests.items():
        known = getattr(source, name)
        if known and digest.hexdigest() != known:
            raise DownloadError(f"{path}: {name} is {digest.hexdigest()}, expected {known}")
    return f"sha256:{digests['sha256'].hexdigest()}"


def record(source: Source, folder: Path, found: str) -> None:
    """Note in the folder's RECORD what a file is and how it was checked."""
    path = folder / RECORD
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes = {}
    notes[source.file] = {
        "from": source.place,
        "digest": found,
        "checked against": source.digest or "nothing: none is known",
        "date": date.today().isoformat(),
    }
    write_text(path, json.dumps(notes, indent=1, sort_keys=True) + "\n")


def _from_url(source: Source, part: Path, step: Step) -> None:
    """Fetch to `part`; broken connections are taken up again as long as each attempt brings something."""
    for _ in range(BREAKS):
        before = _size(part)
        try:
            return _attempt(source, part, step)
        except BROKEN as error:
            if _size(part) <= before:
                raise DownloadError(f"{source.file} cannot be fetched: {_cause(source, error, part)}") from error
        except OSError as error:  # requests' errors are OSErrors too
            raise DownloadError(f"{source.file} cannot be fetched from {source.url}: {error}") from error
    raise DownloadError(f"{source.file}: {source.url} broke off {BREAKS} times; {_going_on(part)}")


def _attempt(source: Source, part: Path, step: Step) -> None:
    there, headers = _resumable(source, part)
    headers["Accept-Encoding"] = "identity"  # the bytes on disk are those that offsets and digests speak of
    with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if there and answer.status_code == UNSATISFIABLE and answer.headers.get("Content-Range") == f"bytes */{there}":
            return None  # all of it was there, and not yet checked
        if there and _is_other(answer, headers["If-Range"]):
            _forget(part)
            return _attempt(source, part, step)
        if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise DownloadError(f"{source.file}: {source.url} answers {answer.status_code} {answer.reason}")
        plain = next((step.url for step in (*answer.history, answer) if not step.url.startswith("https:")), None)
        if source.url.startswith("https:") and plain:
            raise DownloadError(f"{source.file}: {source.url} leads to {plain}, which is not https")
        start = _start(source, answer, there)
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else 0
        _check_room(source, part, total or source.size, start)
        with open(part, "ab") as file, alone(file, part):
            if not start:
                file.truncate(0)
                _begin(source, part, answer)
            _write(answer, file, start, total, step)
    if total and _size(part) != total:
        raise requests.ConnectionError(f"it ended after {_size(part)} of {total} bytes")


def _resumable(source: Source, part: Path) -> tuple[int, dict[str, str]]:
    """How many bytes there are to go on from, and the headers that ask for the rest."""
    try:
        state = json.loads(part.with_suffix(".part.json").read_text(encoding="utf-8"))
        there = part.stat().st_size
    except (OSError, ValueError):
        return 0, {}
    if not there or state.get("url") != source.url or not state.get("validator"):
        return 0, {}
    return there, {"Range": f"bytes={there}-", "If-Range": state["validator"]}


def _is_other(answer: requests.Response, validator: str) -> bool:
    """Whether the server speaks of another file than the one that was begun, without sending it whole."""
    if answer.status_code == UNSATISFIABLE:
        return True
    now = answer.headers.get("ETag" if validator.startswith('"') else "Last-Modified", validator)
    return answer.status_code == requests.codes.partial_content and now != validator


def _start(source: Source, answer: requests.Response, there: int) -> int:
    """Where the bytes of an answer belong: 0, or `there` where the server goes on."""
    if answer.status_code == requests.codes.ok:
        return 0
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
        raise DownloadError(
            f"{source.file}: {source.url} sends {answer.headers.get('Content-Range')!r} where bytes from"
            f" {there} on were asked for"
        )
    return there


def _begin(source: Source, part: Path, answer: requests.Response) -> None:
    etag = answer.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
    write_text(part.with_suffix(".part.json"), json.dumps({"url": source.url, "validator": validator}))


def _write(answer: requests.Response, file: IO[bytes], start: int, total: int, step: Step) -> None:
    there = start
    for block in answer.iter_content(BLOCK):
        file.write(block)
        there += len(block)
        step(there, total)


def _from_drive(source: Source, part: Path, step: Step) -> None:
    import gdown

    name = part.with_suffix(".drive")  # gdown makes NAME????????.part beside it
    _check_room(source, part, source.size, 0)
    try:
        gdown.download(
            id=source.drive,
            output=str(name),
            quiet=True,
            use_cookies=False,
            resume=bool(source.unpack),
            timeout=TIMEOUT,
            progress=lambda there, total: step(there, total or 0),
        )
    except BROKEN as error:
        raise DownloadError(f"{source.file} cannot be fetched: {_cause(source, error, part)}") from error
    except Exception as error:  # gdown reads Google's pages: it may stumble on anything
        reason = " ".join(str(error).split())
        raise DownloadError(
            f"{source.file} cannot be had from {source.place}: {reason}; a browser may still get it: put it"
            f" into {part.parent}"
        ) from error
    finally:
        if not source.unpack:
            for left in part.parent.glob(f"{name.name}????????.part"):
                left.unlink()
    os.replace(name, part)


def _checked(source: Source, part: Path) -> str:
    """The digest of what was fetched; a file that is wrong is not kept."""
    try:
        found = check_digests(source, part)
        if source.file.endswith(".json"):
            json.loads(part.read_text(encoding="utf-8"))
    except DownloadError as error:
        _forget(part)
        raise DownloadError(
            f"{source.file} from {source.place} is not the expected file ({error}); it was deleted"
        ) from None
    except (ValueError, RecursionError):
        _forget(part)
        raise DownloadError(
            f"{source.file} from {source.place} is not JSON (a page of the host?); it was deleted"
        ) from None
    return found


def _check_room(source: Source, part: Path, total: int, there: int) -> None:
    needed = total - there + (total if source.unpack else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        kind = " with what comes out of it" if source.unpack else ""
        raise DownloadError(f"{source.file}{kind} needs {human(needed)} in {part.parent}; {human(free)} are free")


def _cause(source: Source, error: Exception, part: Path) -> str:
    host, text = source.place.split("/")[2], str(error)
    early = isinstance(error, requests.exceptions.ChunkedEncodingError)
    reason = "it ended early" if early else " ".join(text.rpartition(": ")[2].strip("')\">").split())[:120]
    for kind, words in (
        (requests.Timeout, "does not answer"),
        (requests.exceptions.ProxyError, "is not let through by the proxy"),
        (requests.exceptions.SSLError, "has a certificate that is not accepted"),
    ):
        if isinstance(error, kind):
            return f"{host} {words}"
    if "resolve" in text or "getaddrinfo" in text or "Name or service" in text:
        return f"{host} is not found; is there a network?"
    if _size(part) or early:
        return f"the connection to {host} broke ({reason})" + (f"; {_going_on(part)}" if _size(part) else "")
    return f"{host} cannot be reached ({reason})"


def _going_on(part: Path) -> str:
    return f"{human(_size(part))} are in {part}, the same command goes on from there"


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".part.json").unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that is made for the block and not left empty where the block fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in new:
            if not any(path.iterdir()):
                path.rmdir()
        raise
