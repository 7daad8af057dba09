"""Files that are replaced as a whole, what the system refuses, leftovers of killed writers, and locks."""

import errno
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dicap import files
from dicap.engine.utils.torchtools import write_tensors
from dicap.files import cache_folder, locked, one_at_a_time, replacing, write_text

posix = pytest.mark.skipif(os.name == "nt", reason="no such locks, links or modes there")


@pytest.fixture
def process():
    """Start processes that do what the code says, and wait; each has said "ready"."""
    started = []

    def start(code, *args):
        code = f"import os, sys, time\nfrom dicap.files import *\n{code}"
        new = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)
        started.append(new)
        assert new.stdout.readline() == "ready\n"
        return new

    yield start
    for one in started:
        one.kill()
        one.communicate()


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


WAIT = "    print('ready', flush=True)\n    time.sleep(600)"
WRITES = f"with replacing(sys.argv[1]) as new:\n    new.write_bytes(b'half')\n{WAIT}"
LOCKS = f"with locked(sys.argv[1]):\n{WAIT}"


# -- replacing --------------------------------------------------------------------------------------------------------


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a/b.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(ValueError), replacing(path) as temporary:
        temporary.write_text("sec")
        raise ValueError
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["b.txt"]


@posix
def test_a_new_file_has_the_mode_of_the_umask_and_a_replaced_one_its_own(tmp_path):
    def writers(name):
        write_text(tmp_path / f"{name}.txt", "x")
        write_tensors({"x": torch.zeros(1)}, tmp_path / f"{name}.pt")
        with replacing(tmp_path / f"{name}.safetensors") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)  # which makes a private file of its own

    before = os.umask(0o027)
    try:
        writers("a")
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
        for path in tmp_path.iterdir():
            path.chmod(0o604)
        writers("a")
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o604}
    finally:
        os.umask(before)


@posix
def test_no_link_is_written_through(tmp_path, monkeypatch):
    victim, place = tmp_path / "victim", tmp_path / "place"
    victim.write_text("mine")
    place.mkdir()
    (place / f".model.{os.getpid()}.tmp").symlink_to(victim)
    (place / "model").symlink_to(victim)
    (place / ".model.lock").symlink_to(victim)
    (place / ".other.0123456789abcdef.tmp").symlink_to(tmp_path)
    (tmp_path / "lock").write_text("mine")
    write_tensors({"x": torch.zeros(1)}, place / "model")
    assert not (place / "model").is_symlink() and torch.load(place / "model", weights_only=True)
    with pytest.raises(OSError, match="model.lock"), locked(place / ".model.lock"):
        pass
    monkeypatch.setattr("secrets.token_hex", lambda number: "0" * 16)  # even where the name could be known
    (place / ".model.0000000000000000.tmp").symlink_to(tmp_path)
    with pytest.raises(FileExistsError, match="model"):
        write_text(place / "model", "other")
    assert victim.read_text() == (tmp_path / "lock").read_text() == "mine" and not (tmp_path / "new").exists()


def bytes_of(path):
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(20000))


def safetensors_of(path):
    with replacing(path) as temporary:
        save_file({"x": torch.zeros(5000)}, temporary)


def copy_of(path):
    with replacing(path) as temporary:
        shutil.copyfile(torch.__file__, temporary)


def picture_of(path):
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "a.png").write_bytes(bytes(20000))


@pytest.mark.parametrize(
    "write", [bytes_of, safetensors_of, copy_of, picture_of, lambda path: write_tensors({"x": torch.zeros(5000)}, path)]
)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path, write):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # the system refuses as it does where no room is left
    try:
        with pytest.raises(OSError) as caught:
            write(tmp_path / "a/file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "a/file")
    assert "make room there, or choose another folder" in str(caught.value)
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "os.open", "os.replace"])
def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch, number, call):
    def refuse(*args, **kwargs):
        raise OSError(number, "no", *(str(arg) for arg in args[:1] if isinstance(arg, (str, Path))))

    with monkeypatch.context() as patched, pytest.raises(OSError) as caught:
        patched.setattr(call, refuse)
        write_text(tmp_path / "file", "x")
    assert caught.value.errno == number and caught.value.filename in (str(tmp_path / "file"), str(tmp_path))
    assert "see that it can be written, or choose another folder" in str(caught.value)


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file") as temporary:
        shutil.copyfile(tmp_path / "other", temporary)
    assert caught.value.filename == str(tmp_path / "other") and "choose" not in str(caught.value)


def test_what_must_last_is_on_the_disk_before_and_after_its_renaming(tmp_path, monkeypatch):
    called = []

    def watched(name, real):
        return lambda *args: called.append((name, *map(what, args))) or real(*args)

    def what(value):
        path = Path(os.readlink(f"/proc/self/fd/{value}")) if isinstance(value, int) else Path(value)
        return "folder" if path == tmp_path else path.name

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    monkeypatch.setattr(os, "sync", lambda: called.append(("sync",)))
    whole = [("fsync", "new"), ("replace", "new", "file"), ("fsync", "folder")]
    write_text(tmp_path / "file", "x")
    write_tensors({}, tmp_path / "file")
    assert called == 2 * whole
    called.clear()
    with replacing(tmp_path / "cached", lasting=False) as temporary:
        temporary.write_text("x")
    assert called == [("replace", "new", "cached")]
    called.clear()
    with replacing(tmp_path / "pictures") as temporary:
        temporary.mkdir()
    files.move(tmp_path / "file", tmp_path / "moved")
    assert called[:3] == [("sync",), ("replace", "new", "pictures"), ("fsync", "folder")]
    assert called[3:] == [("fsync", "file"), ("replace", "file", "moved"), ("fsync", "folder")]


# -- leftovers --------------------------------------------------------------------------------------------------------


@posix
def test_what_a_killed_writer_left_goes_and_what_others_are_at_stays(tmp_path, process):
    killed, living = process(WRITES, tmp_path / "a.txt"), process(WRITES, tmp_path / "b.txt")
    (tmp_path / ".hidden.tmp").mkdir()  # of another program
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 3
    with replacing(tmp_path / "c.txt") as temporary:
        temporary.write_text("slow")
        write_text(tmp_path / "d.txt", "quick")
    assert sorted(path.name.split(".")[1] for path in tmp_path.glob(".*.tmp")) == ["b", "hidden"]
    assert living.poll() is None and (tmp_path / "c.txt").read_text() == "slow"


@posix
def test_a_writer_whose_folder_was_taken_for_a_leftover_makes_another(tmp_path, monkeypatch):
    real, called = os.open, []

    def slow(path, *args, **options):
        if str(path).endswith("lock") and not called:
            called.append(path)
            write_text(tmp_path / "b", "b")  # another process writes meanwhile
            assert not Path(path).parent.exists()
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", slow)
    with replacing(tmp_path / "a", lasting=False) as temporary:
        temporary.write_text("a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "a", "b": "b"}


@posix
def test_where_there_are_no_locks_a_leftover_goes_when_it_is_a_day_old(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    young, old = (tmp_path / f".{name}.0123456789abcdef.tmp/lock" for name in ("a", "b"))
    for lock in (young, old):
        lock.parent.mkdir()
        lock.write_text("")
    os.utime(old.parent, (time.time() - 2 * files.DAY,) * 2)
    write_text(tmp_path / "c", "x")
    assert young.exists() and not old.parent.exists()


# -- locks ------------------------------------------------------------------------------------------------------------


def test_one_holds_a_lock_at_a_time(tmp_path):
    path = tmp_path / "a/.lock"
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (True, False) and path.exists()
    with pytest.raises(ValueError), locked(path) as again:
        raise ValueError
    assert again and not path.exists()


def test_a_lock_file_that_its_holder_removed_is_not_taken_for_a_lock(tmp_path, monkeypatch):
    import fcntl

    path, real = tmp_path / ".lock", fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (real(file, how), path.unlink()))
    with locked(path) as mine:
        assert not mine


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    import fcntl

    def refuse(file, how):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / ".lock") as mine:
        assert mine


@posix
def test_a_lock_tells_who_holds_it_and_whether_that_process_is_stopped(tmp_path, process):
    path = tmp_path / ".lock"
    path.write_text("123456789 elsewhere\n")  # of one that was killed
    other = process(LOCKS, path)
    with locked(path) as mine:
        assert not mine
    who, stopped = files.holder(path)
    assert f"process {other.pid} on " in who and str(path) in who and not stopped
    if not Path("/proc/self/stat").is_file():
        return
    other.send_signal(signal.SIGSTOP)
    wait_until(lambda: files.holder(path)[1])
    assert f"`kill -CONT {other.pid}` lets it go on" in files.holder(path)[0]
    path.write_text("1 \x1b]0;x\x07\n")
    assert files.holder(path) == (f"it holds {path}", False)


@posix
def test_a_forked_child_does_not_hold_the_lock_of_a_killed_parent(tmp_path, process):
    path = tmp_path / ".lock"
    fork = "    child = os.fork()\n    child or time.sleep(600)\n    open(sys.argv[2], 'w').write(str(child))\n"
    parent = process(f"with locked(sys.argv[1]):\n{fork}{WAIT}", path, tmp_path / "child")
    child = int((tmp_path / "child").read_text())
    try:
        parent.kill()
        parent.wait()
        with locked(path) as mine:
            assert mine
    finally:
        os.kill(child, signal.SIGKILL)


@posix
@pytest.mark.parametrize("stopped", [True, False])
def test_a_wait_is_told_again_and_ends_at_its_limit_or_where_the_holder_is_stopped(
    tmp_path, process, monkeypatch, caplog, stopped
):
    if stopped and not Path("/proc/self/stat").is_file():
        pytest.skip("no /proc")
    caplog.set_level(logging.INFO, "dicap")
    other = process(LOCKS, tmp_path / "a.lock")
    if stopped:
        other.send_signal(signal.SIGSTOP)
        wait_until(lambda: files.holder(tmp_path / "a.lock")[1])
    for name, seconds in (("POLL", 0.01), ("REMIND", 0.05), ("WAIT", 600 if stopped else 0.3)):
        monkeypatch.setattr(files, name, seconds)
    with one_at_a_time(tmp_path / "a.bin", "things"):
        lines = [line for line in caplog.messages if f"process {other.pid} on" in line]
    assert "not waiting for it any longer" in lines[-1] and "another process makes the same things" in lines[-1]
    assert len(lines) == 1 if stopped else len(lines) > 2
    with locked(tmp_path / "a.lock") as mine:
        assert not mine  # the other holds it still


@pytest.mark.parametrize("variable, folder", [("DICAP_CACHE", "x/kind"), ("XDG_CACHE_HOME", "x/dicap/kind")])
def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch, variable, folder):
    monkeypatch.delenv("DICAP_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/x")
    assert cache_folder("kind") == tmp_path / folder
