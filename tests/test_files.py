"""Files that are replaced as a whole, and locks."""

import pytest

from dicap.files import cache_folder, locked, replacing


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a/b.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(ValueError), replacing(path) as temporary:
        temporary.write_text("sec")
        raise ValueError
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("variable, folder", [("DICAP_CACHE", "x/kind"), ("XDG_CACHE_HOME", "x/dicap/kind")])
def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch, variable, folder):
    monkeypatch.delenv("DICAP_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/x")
    assert cache_folder("kind") == tmp_path / folder


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
