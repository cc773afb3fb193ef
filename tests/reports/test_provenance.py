"""Provenance: machine, commit, digest of the data."""

import subprocess

from scse.reports.provenance import data_digest, describe_machine, git_commit


def test_the_machine_is_described():
    found = dict(describe_machine())
    assert {"processor", "cores", "memory", "accelerator", "system", "Python"} <= set(found)
    assert all(found.values())
    assert found["memory"].endswith(" GiB")


def test_a_commit_is_dirty_once_a_tracked_file_differs(tmp_path):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    assert git_commit(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "untracked").write_text("two")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit} (dirty)"


def test_the_digest_changes_with_any_case_but_not_with_their_order():
    digest = data_digest({"a": "1", "b": "2"})
    assert digest == data_digest({"b": "2", "a": "1"})
    assert (
        len({digest, data_digest({"a": "1", "b": "3"}), data_digest({"a": "1"}), data_digest({"a": "1", "c": "2"})})
        == 4
    )
