from __future__ import annotations

import pytest

from corral.adapters.git import GitCredential, GitOutput, GitRemote, failure, masked_url
from corral.adapters.mirror import FileStatus, _parse_changes, parse_identity, with_trailers
from corral.errors import Unrecoverable


@pytest.mark.parametrize(
    ("said", "reason", "retryable"),
    [
        ("fatal: Authentication failed for 'https://h/x'", "authentication_failed", False),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", "authentication_failed", False),
        ("remote: Permission to a/b.git denied to bot.\nreturned error: 403", "permission_denied", False),
        ("remote: This repository was archived so it is read-only.\nerror: 403", "repository_archived", False),
        ("fatal: repository 'https://h/x/' not found", "repository_not_found", False),
        ("! [remote rejected] x -> x (protected branch hook declined)", "branch_protected", False),
        ("remote: GitLab: You are not allowed to push code to protected branches", "branch_protected", False),
        ("! [rejected] x (stale info)", "branch_moved", False),
        ("remote: error: GH001: Large files detected.", "push_too_large", False),
        ("refusing to allow an App to update `x` without `workflow` scope", "workflow_permission_missing", False),
        ("The requested URL returned error: 503", "unreachable", True),
        ("The requested URL returned error: 429", "rate_limited", True),
        ("fatal: unable to access: Could not resolve host: github.com", "unreachable", True),
        ("fatal: the remote end hung up unexpectedly", "unreachable", True),
        ("error: No space left on device", "disk_full", True),
        ("fatal: something new", "failed", True),
    ],
)  # fmt: skip
def test_what_git_says_has_a_name(said: str, reason: str, *, retryable: bool) -> None:
    error = failure("push", GitOutput(b"", said, 1))
    assert (error.reason, error.retryable) == (reason, retryable)


def test_secrets_never_show() -> None:
    remote = GitRemote("https://h/x", GitCredential("bot", "s3cret"))
    error = failure("push", GitOutput(b"", "fatal: s3cret at https://bot:s3cret@h/x and https://u:other@h", 1), remote)
    assert "s3cret" not in str(error)
    assert "other" not in str(error)
    assert "s3cret" not in repr(remote)
    assert masked_url("https://u:p@h/x") == "https://h/x"


def test_changes_are_read_with_any_name() -> None:
    zeros, blob = "0" * 40, "1" * 40
    printed = "\0".join(
        [
            f":000000 100644 {zeros} {blob} A", "tab\there\nand line",
            f":100644 000000 {blob} {zeros} D", "gone",
            f":100644 120000 {blob} {blob} T", "link",
            "3\t0\ttab\there\nand line", "0\t2\tgone", "-\t-\tlink", "",
        ]
    )  # fmt: skip
    added, gone, link = _parse_changes(printed)
    assert (added.path, added.status, added.lines_added) == ("tab\there\nand line", FileStatus.ADDED, 3)
    assert (gone.status, gone.lines_removed) == (FileStatus.DELETED, 2)
    assert (link.status, link.binary, link.mode) == (FileStatus.TYPE_CHANGED, True, "120000")


@pytest.mark.parametrize("trailers", [{"Bad name": "x"}, {"A": "two\nlines"}, {"A": ""}, {"": "x"}])
def test_trailers_that_would_break_out_are_refused(trailers: dict[str, str]) -> None:
    with pytest.raises(Unrecoverable) as raised:
        with_trailers("Subject", trailers)
    assert raised.value.reason == "invalid_trailer"


def test_trailers_join_those_that_are_there() -> None:
    assert with_trailers("S\n\nSigned-off-by: A <a@x>\n", {"B": "1"}) == "S\n\nSigned-off-by: A <a@x>\nB: 1\n"
    assert with_trailers("S", {"B": "1"}) == "S\n\nB: 1\n"
    assert with_trailers("S: x", {"B": "1"}) == "S: x\n\nB: 1\n"


@pytest.mark.parametrize("identity", ["nobody", "A <>", "A <a@x>\n", "<a@x>", "A\nB <a@x>"])
def test_identities_that_would_break_out_are_refused(identity: str) -> None:
    with pytest.raises(Unrecoverable):
        parse_identity(identity)
