"""Gets a source's file: resumed where it broke off, checked, and only then given its name.

Plain addresses go through requests, Google Drive through gdown; not through torchvision's `download_url`, which writes to the
final name, starts again after a break, waits without end and turns https into http on an error.

Bytes go to `.NAME.part`, beside `.NAME.part.json` with the
address and the validator (a strong ETag, else Last-Modified); the next attempt asks for the rest with Range and If-Range, so a
file that has changed is sent whole. gdown resumes by length alone, so only archives, which have checksums, are resumed with it.
"""

import contextlib
import glob
import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import requests
from requests import codes
from rich.filesize import decimal

from dicap.data.sources import Source, progress
from dicap.data.split import DatasetError, read_json
from dicap.files import holder, locked, move, named, write_text

RECORD = "dicap_downloads.json"  # in a dataset's folder: what was fetched, from where, with which digest
BLOCK = 1 << 16  # a break costs at most one
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
ARCHIVE, FILE = 10**11, 10**8  # bytes at most of an archive, of another file, where no size is stated; SUN397 has 4e10
BREAKS = 20  # broken connections of one download, each after new bytes
UNSATISFIABLE = codes.requested_range_not_satisfiable
BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

Show = Callable[[int, int | None], None]  # bytes there, bytes in all


class DownloadError(DatasetError):
    """A source that cannot be had; the message names its file, what happened and what to do."""


def fetch(source: Source, folder: Path) -> str:
    """Get a source's file into the dataset's folder.

    Returns:
        "sha256:..." of the file; it stands in the folder's RECORD too.
    Raises DownloadError: by hand only, no connection, not there, too short, too long, wrong digest, no room. Nothing is
        left but a part to go on from.
    """
    if source.manual:
        raise DownloadError(f"{source.file} has to be put into {folder} by hand: {source.note}")
    target = folder / source.file
    part = target.with_name(f".{target.name}.part")
    absent = [path for path in target.parents if not path.exists()]
    try:
        lock = part.with_suffix(".lock")
        with locked(lock) as mine, progress(source.file, source.size) as bar:
            if not mine:
                raise DownloadError(f"another process is at work on {target} ({holder(lock)[0]}); wait for it")
            expected = source.size or (ARCHIVE if source.unpack else FILE)
            room = (_size(part) + shutil.disk_usage(folder).free) // (2 if source.unpack else 1)

            def show(there: int, total: int | None) -> None:
                size = max(there, total or 0)
                if there > min(expected, room):
                    _forget(part)
                if size > min(expected, room):
                    limits = f"at most {decimal(expected)} are expected, and {decimal(room)} have room in {folder}"
                    beside = " beside what comes out of it" if source.unpack else ""
                    raise DownloadError(f"{source.file}: {source.place} sends {decimal(size)}; {limits}{beside}")
                bar.total = total or bar.total
                bar.update(there - bar.n)

            (_from_drive if source.drive else _from_url)(source, part, show)
            digest = _check_content(source, part)
            move(part, target)
            _forget(part)
            record(source, folder, digest)
            return digest
    finally:
        for path in absent:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def check_digests(source: Source, path: Path) -> str:
    """Compare a file with the digests that are known; returns its "sha256:...". Raises DownloadError."""
    digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            for digest in digests.values():
                digest.update(block)
    for name, known in (("md5", source.md5), ("sha256", source.sha256)):
        if known and digests[name].hexdigest() != known:
            raise DownloadError(f"{path}: {name} is {digests[name].hexdigest()}, expected {known}")
    return f"sha256:{digests['sha256'].hexdigest()}"


def record(source: Source, folder: Path, digest: str) -> None:
    """Note in the folder's RECORD what a file is and how it was checked."""
    notes: dict[str, dict[str, str]] = {}
    with contextlib.suppress(DatasetError):
        notes = read_json(folder / RECORD)
    against, today = source.digest or "nothing: none is known", date.today().isoformat()
    notes[source.file] = {"from": source.place, "digest": digest, "checked against": against, "date": today}
    write_text(folder / RECORD, json.dumps(notes, indent=1, sort_keys=True) + "\n")


def _from_url(source: Source, part: Path, show: Show) -> None:
    """Fetch to `part`; broken connections are taken up again as long as each attempt brings something."""
    for _ in range(BREAKS):
        before = _size(part)
        try:
            return _attempt(source, part, show)
        except BROKEN as error:
            if _size(part) <= before:
                raise DownloadError(f"{source.file} cannot be fetched: {_cause(source, error, part)}") from error
        except OSError as error:  # requests' errors are OSErrors too
            raise DownloadError(f"{source.file} cannot be fetched from {source.url}: {error}") from error
    raise DownloadError(f"{source.file}: {source.url} broke off {BREAKS} times; {_going_on(part)}")


def _attempt(source: Source, part: Path, show: Show) -> None:
    """One request: for the rest of what was begun, if it can be compared; what the server sends goes to `part`."""
    there, validator = _begun(source, part)
    headers = {"Accept-Encoding": "identity"}  # the bytes on disk are those that offsets and digests speak of
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": validator}
    with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        status, sent = answer.status_code, answer.headers
        if there and status == UNSATISFIABLE and sent.get("Content-Range") == f"bytes */{there}":
            return None  # all of it was there, and not yet checked
        now = sent.get("ETag" if validator.startswith('"') else "Last-Modified", validator)
        if there and (status == UNSATISFIABLE or (status == codes.partial_content and now != validator)):
            _forget(part)  # it is another file now
            return _attempt(source, part, show)
        _check_answer(source, answer)
        if status == codes.partial_content and not sent.get("Content-Range", "").startswith(f"bytes {there}-"):
            problem = f"sends {sent.get('Content-Range')!r}, not bytes from {there} on"
            raise DownloadError(f"{source.file}: {source.url} {problem}")
        start, length = there if status == codes.partial_content else 0, sent.get("Content-Length", "")
        total = start + int(length[:30]) if length.isdecimal() else 0
        show(start, total or source.size)
        _write(source, part, answer, start, total, show)
    if total and _size(part) != total:
        raise requests.ConnectionError(f"it ended after {_size(part)} of {total} bytes")


def _begun(source: Source, part: Path) -> tuple[int, str]:
    """The bytes that there are to go on from, and the validator of the file that they are of; else 0 and ""."""
    try:
        state = read_json(part.with_suffix(".part.json"))
    except DatasetError:
        return 0, ""
    usable = _size(part) and state.get("url") == source.url and state.get("validator")
    return (_size(part), state["validator"]) if usable else (0, "")


def _check_answer(source: Source, answer: requests.Response) -> None:
    if answer.status_code not in (codes.ok, codes.partial_content):
        raise DownloadError(f"{source.file}: {source.url} answers {answer.status_code} {answer.reason}")
    plain = next((hop.url for hop in (*answer.history, answer) if not hop.url.startswith("https:")), None)
    if source.url.startswith("https:") and plain:
        raise DownloadError(f"{source.file}: {source.url} leads to {plain}, which is not https")


def _write(source: Source, part: Path, answer: requests.Response, start: int, total: int, show: Show) -> None:
    """Append an answer to `part`, or begin `part` with it where `start` is 0."""
    if not start:
        etag = answer.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
        _forget(part)
        write_text(part.with_suffix(".part.json"), json.dumps({"url": source.url, "validator": validator}))
    with named(part), open(part, "ab") as file:
        for block in answer.iter_content(BLOCK):
            file.write(block)
            show(file.tell(), total)


def _from_drive(source: Source, part: Path, show: Show) -> None:
    import gdown

    show(0, source.size)
    options: dict[str, Any] = {"quiet": True, "use_cookies": False, "timeout": TIMEOUT, "progress": show}
    try:  # gdown makes PART????????.part beside its output
        gdown.download(id=source.drive, output=str(part), resume=bool(source.unpack), **options)
    except DownloadError:
        raise
    except BROKEN as error:
        raise DownloadError(f"{source.file} cannot be fetched: {_cause(source, error, part)}") from error
    except Exception as error:  # gdown reads Google's pages: it may stumble on anything
        reason = " ".join(str(error).split())
        hint = f"a browser may still get it: put it into {part.parent}"
        raise DownloadError(f"{source.file} cannot be had from {source.place}: {reason}; {hint}") from error
    finally:
        for left in part.parent.glob(f"{part.name}????????.part") if not source.unpack else ():
            left.unlink()


def _check_content(source: Source, part: Path) -> str:
    """The digest of what was fetched; a file that is wrong is not kept."""
    try:
        digest = check_digests(source, part)
        if source.file.endswith(".json"):
            read_json(part)
    except DatasetError as error:
        _forget(part)
        problem = f"is not the expected file (a page of the host?): {error}; it was deleted"
        raise DownloadError(f"{source.file} from {source.place} {problem}") from None
    return digest


def _cause(source: Source, error: Exception, part: Path) -> str:
    host, text = source.place.split("/")[2], str(error)
    known = {
        requests.Timeout: "does not answer",
        requests.exceptions.ProxyError: "is not let through by the proxy",
        requests.exceptions.SSLError: "has a certificate that is not accepted",
    }
    said = next((said for kind, said in known.items() if isinstance(error, kind)), "")
    if "resolve" in text or "getaddrinfo" in text or "Name or service" in text:
        said = "is not found; is there a network?"
    if said:
        return f"{host} {said}"
    early = isinstance(error, requests.exceptions.ChunkedEncodingError)
    reason = "it ended early" if early else " ".join(text.rpartition(": ")[2].strip("')\">").split())[:120]
    if not (early or _size(part)):
        return f"{host} cannot be reached ({reason})"
    return f"the connection to {host} broke ({reason})" + (f"; {_going_on(part)}" if _size(part) else "")


def _going_on(part: Path) -> str:
    return f"{decimal(_size(part))} are in {part}, the same command goes on from there"


def _forget(part: Path) -> None:
    for left in part.parent.glob(f"{glob.escape(part.name)}*"):  # also what gdown calls its part
        left.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
