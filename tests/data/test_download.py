"""Downloads against a local server with the faults of real ones; Google Drive at the boundary of gdown."""

import contextlib
import hashlib
import json
import os
import socket
from types import SimpleNamespace

import gdown
import pytest
import requests
from file_server import File, FileServer

from dicap.data import download
from dicap.data.download import BLOCK, RECORD, DownloadError, fetch
from dicap.data.sources import Source
from dicap.data.split import DatasetError
from dicap.files import locked

DATA = os.urandom(300_000)
LARGE = 5 * DATA  # gdown writes in blocks of half a MiB
MD5, SHA256 = hashlib.md5(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server():
    with FileServer() as server:
        server.files["data.bin"] = File(DATA)
        yield server


@pytest.fixture
def source(server):
    return Source("data.bin", url=server.url("data.bin"), md5=MD5)


def broken_off(server, source, folder, after=2 * BLOCK):
    """A first attempt that breaks off, at a server that is gone afterwards."""
    file = server.files["data.bin"]
    file.cuts, file.then = [after], 503
    with pytest.raises(DownloadError, match="503"):
        fetch(source, folder)
    file.status = 200
    server.asked.clear()
    return folder / ".data.bin.part"


def test_a_file_arrives_whole_and_is_recorded(server, source, tmp_path, monkeypatch):
    seen = []
    bar = SimpleNamespace(n=0, total=None, update=lambda count: seen.append((count, bar.total)))
    monkeypatch.setattr(download, "progress", lambda what, total: contextlib.nullcontext(bar))
    found = fetch(source, tmp_path / "new")
    assert (tmp_path / "new/data.bin").read_bytes() == DATA
    assert server.encodings == ["identity"]  # else a server may send other bytes than the file's
    assert found == f"sha256:{SHA256}" and seen[-1] == (len(DATA), len(DATA))
    note = json.loads((tmp_path / "new" / RECORD).read_text())["data.bin"]
    assert (note["from"], note["digest"], note["checked against"]) == (source.url, found, f"md5:{MD5}")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["data.bin", RECORD]


def test_an_unknown_digest_is_computed_and_said(server, source, tmp_path):
    fetch(Source("data.bin", url=source.url), tmp_path)
    note = json.loads((tmp_path / RECORD).read_text())["data.bin"]
    assert note["digest"] == f"sha256:{SHA256}" and note["checked against"].startswith("nothing")


def test_a_broken_connection_is_taken_up_again_at_once(server, source, tmp_path):
    server.files["data.bin"].cuts = [3 * BLOCK, BLOCK]
    fetch(source, tmp_path)
    assert [wanted for _, wanted in server.asked] == ["", f"bytes={3 * BLOCK}-", f"bytes={4 * BLOCK}-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_an_interrupted_download_goes_on_where_it_was(server, source, tmp_path):
    part = broken_off(server, source, tmp_path)
    assert part.stat().st_size == 2 * BLOCK and not (tmp_path / "data.bin").exists()
    fetch(source, tmp_path)
    assert [wanted for _, wanted in server.asked] == [f"bytes={2 * BLOCK}-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA and not part.exists()


def test_a_whole_part_is_not_fetched_again(server, source, tmp_path):
    """Killed while the digest was computed, which takes minutes for a large file."""
    part = broken_off(server, source, tmp_path)
    part.write_bytes(DATA)
    fetch(source, tmp_path)
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(DATA)}-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA and not part.exists()
    assert not (tmp_path / ".data.bin.part.json").exists()


@pytest.mark.parametrize("obeys_if_range", [True, False])
def test_a_file_that_changed_between_attempts_is_not_glued(server, source, tmp_path, obeys_if_range):
    broken_off(server, source, tmp_path)
    other = os.urandom(len(DATA))
    server.files["data.bin"] = File(other, obeys_if_range=obeys_if_range)
    fetch(Source("data.bin", url=source.url), tmp_path)  # no digest is known that would tell
    assert (tmp_path / "data.bin").read_bytes() == other


def test_a_file_that_became_shorter_is_fetched_anew(server, source, tmp_path):
    broken_off(server, source, tmp_path)
    server.files["data.bin"] = File(b"short", obeys_if_range=False)
    fetch(Source("data.bin", url=source.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"short"


@pytest.mark.parametrize("faults", [{"ranges": False}, {"etag": ""}, {"etag": 'W/"1"'}])
def test_without_range_or_validator_it_starts_again(server, source, tmp_path, faults):
    server.files["data.bin"] = File(DATA, **faults)
    broken_off(server, source, tmp_path)
    fetch(source, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert len(server.asked) == 1 and bool(server.asked[0][1]) == (
        "ranges" in faults
    )  # what cannot be compared is not asked for


def test_a_part_of_another_address_is_not_used(server, source, tmp_path):
    broken_off(server, source, tmp_path)
    server.files["mirror.bin"] = File(DATA)
    fetch(Source("data.bin", url=server.url("mirror.bin"), md5=MD5), tmp_path)
    assert server.asked == [("mirror.bin", "")]


def test_a_truncated_file_is_no_file(server, source, tmp_path):
    server.files["data.bin"] = File(DATA, ranges=False, cuts=[1000] * 50)
    with pytest.raises(DownloadError, match=r"data.bin cannot be fetched: the connection to 127.0.0.1:\d+ broke"):
        fetch(source, tmp_path)
    assert not (tmp_path / "data.bin").exists() and len(server.asked) < 5


def test_a_truncated_file_is_no_file_where_urllib3_lets_it_pass(server, source, tmp_path, monkeypatch):
    server.files["data.bin"].ranges = False
    monkeypatch.setattr(requests.Response, "iter_content", lambda self, size: iter([DATA[:1000]]))
    with pytest.raises(DownloadError, match=f"it ended after 1000 of {len(DATA)} bytes"):
        fetch(Source("data.bin", url=source.url), tmp_path)
    assert not (tmp_path / "data.bin").exists()


@pytest.mark.parametrize("returns", [False, True])
def test_https_is_not_given_up_on_the_way(server, tmp_path, monkeypatch, returns):
    get = requests.get

    def redirected(url, **rest):
        answer = get(server.url("data.bin"), **rest)
        if returns:  # https, http, https
            answer.history, answer.url = [SimpleNamespace(url=url), SimpleNamespace(url=answer.url)], url
        return answer

    monkeypatch.setattr(requests, "get", redirected)
    with pytest.raises(DownloadError, match="https://host.invalid/data.bin leads to http://.*, which is not https"):
        fetch(Source("data.bin", url="https://host.invalid/data.bin", md5=MD5), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_truncated_file_without_a_length_is_told_by_its_digest(server, source, tmp_path):
    server.files["data.bin"] = File(DATA, length=False, cuts=[1000])
    with pytest.raises(DownloadError, match=f"not the expected file .*md5 is .*, expected {MD5}"):
        fetch(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("known", [{"md5": "0" * 32}, {"sha256": "0" * 64}, {"md5": MD5, "sha256": "0" * 64}])
def test_a_wrong_digest_leaves_nothing(server, source, tmp_path, known):
    with pytest.raises(DownloadError, match="not the expected file"):
        fetch(Source("data.bin", url=source.url, **known), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_one_line_and_leaves_nothing(server, source, tmp_path, status):
    server.files["data.bin"].status = status
    with pytest.raises(DownloadError, match=f"data.bin: http://.* answers {status}") as caught:
        fetch(source, tmp_path / "new")
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


def test_no_server_is_one_line_and_leaves_nothing(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="cannot be reached.*refused") as caught:
        fetch(Source("data.bin", url=f"http://127.0.0.1:{port}/data.bin"), tmp_path / "a/b")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_no_network_is_said(tmp_path):
    with pytest.raises(DownloadError, match="host.invalid is not found; is there a network"):
        fetch(Source("data.bin", url="http://host.invalid/data.bin"), tmp_path / "new")


def test_no_room_is_said_before_a_byte_is_written(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(DownloadError, match="data.bin: .* sends 300.0 kB; .* 10 bytes have room in"):
        fetch(source, tmp_path / "new")
    with pytest.raises(DownloadError, match="5 bytes have room in .* beside what comes out"):
        fetch(Source("data.bin", url=source.url, unpack=("images",)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("digits", [30, 5000])  # more than 4300 are no number to Python
@pytest.mark.parametrize("size", [0, len(DATA)])
def test_an_absurd_length_is_refused_before_a_byte_is_written(server, source, tmp_path, digits, size):
    server.files["data.bin"] = File(DATA, length=False, headers={"Content-Length": "9" * digits})
    with pytest.raises(DownloadError, match="data.bin: .* sends .* at most") as caught:
        fetch(Source("data.bin", url=source.url, size=size), tmp_path / "new")
    assert len(str(caught.value)) < 500 and not (tmp_path / "new").exists()


@pytest.mark.parametrize("unpack", [(), ("images",)])
@pytest.mark.parametrize("size", [0, 50_000])
def test_an_endless_answer_is_cut_off_and_leaves_nothing(server, source, tmp_path, monkeypatch, size, unpack):
    monkeypatch.setattr(download, "FILE", 50_000)
    monkeypatch.setattr(download, "ARCHIVE", 50_000)
    server.files["data.bin"] = File(LARGE, length=False)
    with pytest.raises(DownloadError, match="data.bin: http://.* sends .*at most 50.0 kB"):
        fetch(Source("data.bin", url=source.url, size=size, unpack=unpack), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_endless_answer_does_not_fill_the_disk(server, source, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=70_000))
    server.files["data.bin"] = File(LARGE, length=False)
    with pytest.raises(DownloadError, match="sends .*70.0 kB have room in"):
        fetch(Source("data.bin", url=source.url), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_by_hand_says_what_to_put_where(tmp_path):
    with pytest.raises(DownloadError, match=f"train has to be put into {tmp_path} by hand: ask for it"):
        fetch(Source("train", note="ask for it"), tmp_path)


def drive(monkeypatch, data=None, error=None, calls=None):
    """gdown.download as it behaves: a part beside the output, then the output."""

    def fake(id, output, quiet, use_cookies, resume, timeout, progress):
        if calls is not None:
            calls.append((id, resume))
        part = f"{output}abcd1234.part"
        with open(part, "ab") as file:
            file.write(data or b"half")
        if error:
            raise error
        os.replace(part, output)
        progress(len(data), None)
        return output

    monkeypatch.setattr(gdown, "download", fake)


def test_drive_files_are_checked_and_recorded_too(tmp_path, monkeypatch):
    calls = []
    drive(monkeypatch, b"{}", calls=calls)
    fetch(Source("split.json", drive="1abc"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "split.json"]
    assert "1abc" in json.loads((tmp_path / RECORD).read_text())["split.json"]["from"]
    drive(monkeypatch, DATA, calls=calls)
    fetch(Source("data.zip", drive="1abd", unpack=("x",), md5=MD5), tmp_path)
    assert calls == [("1abc", False), ("1abd", True)]  # only what carries checksums of its own is resumed by length


def test_a_page_instead_of_a_split_file_is_refused(tmp_path, monkeypatch):
    drive(monkeypatch, b"<html>too many downloads</html>")
    with pytest.raises(DownloadError, match="split.json .*a page of the host.*cannot be read as JSON"):
        fetch(Source("split.json", drive="1abc"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error, text",
    [
        (
            gdown.exceptions.FileURLRetrievalError("Cannot retrieve\n the public link"),
            "drive/file.*Cannot retrieve the public link",
        ),
        (requests.ConnectionError("x: Failed to resolve 'drive.google.com'"), "drive.google.com is not found"),
        (requests.Timeout("read"), "drive.google.com does not answer"),
    ],
)
def test_drive_refusals_are_one_line_and_leave_nothing(tmp_path, monkeypatch, error, text):
    drive(monkeypatch, error=error)
    with pytest.raises(DownloadError, match=text.replace("drive/file", "drive.google.com/file")) as caught:
        fetch(Source("split.json", drive="1abc"), tmp_path / "new")
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


@pytest.fixture
def google(server, monkeypatch):
    """gdown itself, with the local server in place of Google."""
    get = requests.Session.get
    monkeypatch.setattr(
        requests.Session, "get", lambda self, url, **rest: get(self, server.url(url.rpartition("=")[2]), **rest)
    )
    page = {"Content-Type": "text/html"}
    server.files["1abc"] = File(
        LARGE,
        headers={"Content-Type": "application/zip", "Content-Disposition": 'attachment; filename="x"'},
        obeys_if_range=False,
    )
    server.files["1page"] = File(b"<html>Sorry</html>", headers=page)
    server.files["1odd"] = File(b"no type at all")
    return server


def test_gdown_itself_resumes_an_archive(google, tmp_path):
    source = Source("data.zip", drive="1abc", unpack=("x",), md5=hashlib.md5(LARGE).hexdigest())
    google.files["1abc"].cuts = [1_200_000]
    with pytest.raises(DownloadError, match="data.zip cannot be had from https://drive.google.com/file/d/1abc"):
        fetch(source, tmp_path)
    assert not (tmp_path / "data.zip").exists() and len(list(tmp_path.iterdir())) == 1
    fetch(source, tmp_path)
    assert google.asked[-1][1].startswith("bytes=") and (tmp_path / "data.zip").read_bytes() == LARGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zip", RECORD]


def test_gdown_itself_leaves_nothing_of_a_small_file(google, tmp_path):
    google.files["1abc"].cuts = [200_000]
    with pytest.raises(DownloadError):
        fetch(Source("list.txt", drive="1abc", md5=MD5), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("length", [True, False])
def test_gdown_itself_is_cut_off_at_an_endless_answer(google, tmp_path, monkeypatch, length):
    monkeypatch.setattr(download, "ARCHIVE", 100_000)
    google.files["1abc"].length = length
    with pytest.raises(DownloadError, match="data.zip: https://drive.google.com/file/d/1abc sends .*at most 100.0 kB"):
        fetch(Source("data.zip", drive="1abc", unpack=("x",)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("drive", ["1page", "1odd", "1gone"])
def test_gdown_itself_at_a_page_that_is_no_file(google, tmp_path, drive):
    with pytest.raises(DownloadError, match="data.zip cannot be had.*a browser may still get it") as caught:
        fetch(Source("data.zip", drive=drive, unpack=("x",)), tmp_path / "new")
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()


def test_two_processes_do_not_write_one_file(server, source, tmp_path):
    pytest.importorskip("fcntl")
    broken_off(server, source, tmp_path)
    with (
        locked(tmp_path / ".data.bin.lock"),
        pytest.raises(DatasetError, match="another process is at work on .*data.bin"),
    ):
        fetch(source, tmp_path)
    fetch(source, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA
