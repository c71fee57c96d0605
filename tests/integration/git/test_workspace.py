"""Workspaces with real git: what jobs get, what they leave, and what hostile contents can't do."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.memory_redis import MemoryRedis
from tests.support.repositories import Repository, git

from corral.adapters.filelock import locked, try_lock
from corral.adapters.git import Git, GitOutput, GitRemote
from corral.adapters.mirror import FileStatus, Mirror, Signing
from corral.adapters.workspace import Workspaces, reap
from corral.commits import CommitStore
from corral.errors import GitFailed, Unrecoverable
from corral.projects import Project

_ROOT = Path(__file__).resolve().parents[3]


class Bench:
    def __init__(self, folder: Path, repository: Repository | None = None, redis: MemoryRedis | None = None) -> None:
        self.repository = repository or Repository(folder / "forge")
        self.project = Project(id="shop", repository=str(self.repository.bare))
        self.redis = redis or MemoryRedis()
        self.commits = CommitStore(self.redis)
        self.data_dir = folder / "data"
        self.workspaces = Workspaces(data_dir=self.data_dir, commits=self.commits)
        self.worktrees = self.data_dir / "projects" / "shop" / "worktrees"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_job_gets_the_files_of_the_default_branch_and_nothing_is_left(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        assert workspace.commit == bench.repository.tip()
        assert sorted(path.name for path in workspace.path.iterdir()) == ["README.md", "src"]
        assert await workspace.changes() == []
    assert list(bench.worktrees.iterdir()) == []


async def test_changes_tell_of_new_changed_and_removed_files(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "new.txt").write_text("1\n2\n")
        (workspace.path / "README.md").write_text("# Other\n")
        (workspace.path / "src" / "add.py").unlink()
        (workspace.path / "blob.bin").write_bytes(b"\0\1\2")
        changes = {change.path: change for change in await workspace.changes()}
        diff = await workspace.diff()
    assert {path: change.status for path, change in changes.items()} == {
        "new.txt": FileStatus.ADDED,
        "README.md": FileStatus.MODIFIED,
        "src/add.py": FileStatus.DELETED,
        "blob.bin": FileStatus.ADDED,
    }
    assert (changes["new.txt"].lines_added, changes["README.md"].lines_removed) == (2, 1)
    assert changes["blob.bin"].binary
    assert "+# Other" in diff
    assert "GIT binary patch" in diff


async def test_a_diff_applies_elsewhere_and_a_bad_one_leaves_no_trace(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "new.bin").write_bytes(bytes(range(256)))
        (workspace.path / "README.md").write_text("# Other\n")
        diff = await workspace.diff()
    async with bench.workspaces.checkout(bench.project) as workspace:
        await workspace.apply_patch(diff)
        assert (workspace.path / "new.bin").read_bytes() == bytes(range(256))
        with pytest.raises(Unrecoverable) as raised:
            await workspace.apply_patch(diff)
        assert raised.value.reason == "patch_does_not_apply"
        assert await workspace.diff() == diff


@pytest.mark.parametrize(
    "patch",
    [
        "--- /dev/null\n+++ b/../escaped.txt\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n",
        (
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/tmp\n"
            "\\ No newline at end of file\ndiff --git a/l/escaped.txt b/l/escaped.txt\nnew file mode 100644\n"
            "--- /dev/null\n+++ b/l/escaped.txt\n@@ -0,0 +1 @@\n+x\n"
        ),
        "not a patch",
    ],
    ids=["parent", "dot-git", "through-a-link", "garbage"],
)
async def test_a_patch_stays_inside(bench: Bench, patch: str) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        with pytest.raises(Unrecoverable):
            await workspace.apply_patch(patch)
        assert await workspace.changes() == []
        assert not (workspace.path.parent / "escaped.txt").exists()
    assert not Path("/tmp/escaped.txt").exists()


async def test_another_worker_has_a_generated_commit_without_the_forge(tmp_path: Path, bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "a.txt").write_text("a\n")
        first = await workspace.commit_all(
            branch="corral/1", message="One", author="R <r@x>", trailers={"Corral-Task": "1"}
        )
    async with bench.workspaces.checkout(bench.project, first) as workspace:
        (workspace.path / "b.txt").write_text("b\n")
        second = await workspace.commit_all(
            branch="corral/1", message="Two", author="R <r@x>", trailers={"Corral-Task": "1"}
        )
    assert bench.repository.branches() == ["main"]

    other = Bench(tmp_path / "other", bench.repository, bench.redis)
    for revision in (second, "corral/1"):
        async with other.workspaces.checkout(other.project, revision) as workspace:
            assert workspace.commit == second
            assert (workspace.path / "a.txt").read_text() + (workspace.path / "b.txt").read_text() == "a\nb\n"


@pytest.mark.parametrize("revision", ["0" * 40, "nothing", "-upload-pack=x", "main^{/x}", "--help"])
async def test_what_is_not_there_is_told(bench: Bench, revision: str) -> None:
    with pytest.raises((Unrecoverable, GitFailed)) as raised:
        async with bench.workspaces.checkout(bench.project, revision):
            pass
    assert getattr(raised.value, "reason", "") in {"commit_not_found", "invalid_revision"}


async def test_an_empty_repository_is_told(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", str(tmp_path / "empty.git"))
    bench = Bench(tmp_path)
    project = bench.project.model_copy(update={"repository": str(tmp_path / "empty.git")})
    with pytest.raises(Unrecoverable) as raised:
        async with bench.workspaces.checkout(project):
            pass
    assert raised.value.reason == "branch_not_found"


async def test_what_is_no_repository_is_told(tmp_path: Path, bench: Bench) -> None:
    project = bench.project.model_copy(update={"repository": str(tmp_path)})
    with pytest.raises(GitFailed) as raised:
        async with bench.workspaces.checkout(project):
            pass
    assert (raised.value.reason, raised.value.retryable) == ("not_a_repository", False)
    with pytest.raises(GitFailed) as raised:
        await bench.workspaces.inspect(str(tmp_path))
    assert raised.value.reason == "not_a_repository"


async def test_nothing_to_commit_is_told(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        with pytest.raises(Unrecoverable) as raised:
            await workspace.commit_all(branch="corral/1", message="x", author="R <r@x>", trailers={})
    assert raised.value.reason == "nothing_changed"


async def test_a_hostile_worktree_runs_nothing(tmp_path: Path, bench: Bench) -> None:
    """Whatever a repository could make git run: its configuration, hooks, filters, nested repositories."""
    mark = tmp_path / "ran"
    evil = f"touch {mark}"
    bench.repository.commit({".gitattributes": "* filter=evil diff=evil merge=evil\n", "f.txt": "x\n"})
    async with bench.workspaces.checkout(bench.project) as workspace:
        for folder in (workspace.path, workspace.path / "nested", workspace.path / "src" / "deep"):
            folder.mkdir(parents=True, exist_ok=True)
            git(folder, "init", "--quiet")
            settings = [
                ("core.fsmonitor", evil), ("core.hooksPath", "."), ("filter.evil.clean", evil),
                ("filter.evil.smudge", evil), ("diff.evil.command", evil), ("diff.evil.textconv", evil),
                ("diff.external", evil), ("core.pager", evil), ("core.sshCommand", evil), ("gpg.program", evil),
                ("alias.add", f"!{evil}"), ("core.editor", evil), ("commit.gpgSign", "true"),
            ]  # fmt: skip
            for name, value in settings:
                git(folder, "config", name, value)
            for hook in ("pre-commit", "post-checkout", "post-index-change", "reference-transaction", "pre-push"):
                path = folder / ".git" / "hooks" / hook
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"#!/bin/sh\n{evil}\n")
                path.chmod(0o755)
            (folder / "new.txt").write_text("x\n")
        (workspace.path / "gitlink").mkdir()
        (workspace.path / "gitlink" / ".git").write_text(f"gitdir: {workspace.path}/nested/.git\n")
        (workspace.path / "gitlink" / "inside.txt").write_text("x\n")
        (workspace.path / "f.txt").write_text("y\n")
        assert {change.path for change in await workspace.changes()} >= {
            "new.txt",
            "nested/new.txt",
            "gitlink/inside.txt",
        }
        assert all(change.mode == "100644" for change in await workspace.changes())
        await workspace.diff()
        await workspace.apply_patch("--- /dev/null\n+++ b/p.txt\n@@ -0,0 +1 @@\n+x\n")
        await workspace.commit_all(branch="corral/1", message="x", author="R <r@x>", trailers={})
    assert not mark.exists()


async def test_links_are_kept_as_links_and_never_followed(tmp_path: Path, bench: Bench) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".git").mkdir()
    (outside / "secret.txt").write_text("secret")
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "out").symlink_to(outside)
        (workspace.path / "loop").symlink_to(".")
        changes = await workspace.changes()
        assert {(change.path, change.mode) for change in changes} == {("out", "120000"), ("loop", "120000")}
        assert "secret" not in (await workspace.diff()).replace("secret.txt", "")
    assert (outside / ".git").exists()
    assert (outside / "secret.txt").exists()


@pytest.mark.parametrize("encoding", ["UTF-16", "what"])
async def test_an_encoding_that_the_repository_asks_for_fails_no_commit(bench: Bench, encoding: str) -> None:
    bench.repository.commit({"old.txt": "old\n"})
    # Only this file is added: the person's own git would choke on the others.
    (bench.repository.clone / ".gitattributes").write_text(f"*.txt working-tree-encoding={encoding}\n")
    for command in (
        ("add", ".gitattributes"),
        ("commit", "--quiet", "--message", "Encode"),
        ("push", "-q", "origin", "main"),
    ):
        git(bench.repository.clone, *command)
    async with bench.workspaces.checkout(bench.project) as workspace:
        assert (workspace.path / "old.txt").read_bytes() == b"old\n", "as git stores it"
        (workspace.path / "old.txt").write_text("gr\u00fcn\n", encoding="utf-8")
        (workspace.path / "new.txt").write_text("new\n")
        commit = await workspace.commit_all(
            branch="corral/t1", message="Change", author="Bot <bot@example.org>", trailers={}
        )
    mirror = bench.workspaces.mirror(bench.project)
    assert await mirror.read_file(commit, "old.txt", max_bytes=100) == "gr\u00fcn\n"
    assert await mirror.read_file(commit, "new.txt", max_bytes=100) == "new\n"


async def test_a_mirror_of_an_earlier_release_gets_the_attributes_too(bench: Bench) -> None:
    await bench.workspaces.resolve(bench.project)
    attributes = bench.workspaces.mirror(bench.project).path / "info" / "attributes"
    wanted = attributes.read_text()
    attributes.unlink()
    bench.repository.commit({"a.txt": "1\n"})
    await bench.workspaces.resolve(bench.project)
    assert attributes.read_text() == wanted


async def test_folders_that_can_not_be_entered_are_removed_too(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        shut = workspace.path / "shut"
        shut.mkdir()
        (shut / "file").write_text("x")
        shut.chmod(0)
    assert list(bench.worktrees.iterdir()) == []


async def test_what_a_killed_worker_left_is_reaped_and_a_living_ones_is_not(bench: Bench) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.integration.git.test_workspace import hold\n"
        "asyncio.run(hold(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(bench.repository.bare), str(bench.data_dir)],
        env={**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    left = Path(worker.stdout.readline().strip())
    async with bench.workspaces.checkout(bench.project) as workspace:
        assert reap(bench.worktrees) == []
        assert left.exists()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        assert reap(bench.worktrees) == [left.parent.name]
        assert workspace.path.exists()
    assert list(bench.worktrees.iterdir()) == []


async def hold(bare: Path, data_dir: Path) -> None:
    """What the killed worker does."""
    workspaces = Workspaces(data_dir=data_dir, commits=CommitStore(MemoryRedis()))
    async with workspaces.checkout(Project(id="shop", repository=str(bare))) as workspace:
        print(workspace.path, flush=True)  # noqa: T201  the test reads it
        await asyncio.Event().wait()


async def test_a_cancelled_job_leaves_nothing(bench: Bench) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with bench.workspaces.checkout(bench.project):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(bench.worktrees.iterdir()) == []


class Counting(Git):
    def __init__(self) -> None:
        super().__init__()
        self.commands: list[str] = []

    async def run(self, *args: str, **options: object) -> GitOutput:
        self.commands.append(args[0])
        return await super().run(*args, **options)  # type: ignore[arg-type]


async def test_jobs_that_start_together_share_fetches(bench: Bench) -> None:
    counting = bench.workspaces._git = Counting()

    async def work() -> str:
        async with bench.workspaces.checkout(bench.project) as workspace:
            return workspace.commit

    commits = await asyncio.gather(*(work() for _ in range(6)))
    assert set(commits) == {bench.repository.tip()}
    assert counting.commands.count("fetch") <= 2
    assert counting.commands.count("init") == 1


async def test_a_later_job_sees_what_was_pushed_meanwhile(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project):
        pass
    moved = bench.repository.commit({"more.txt": "x\n"})
    async with bench.workspaces.checkout(bench.project) as workspace:
        assert workspace.commit == moved


async def test_a_branch_that_was_deleted_on_the_forge_is_gone_here_too(bench: Bench) -> None:
    bench.repository.commit({"x.txt": "x\n"}, branch="topic")
    await bench.workspaces.resolve(bench.project, "topic")
    git(bench.repository.bare, "update-ref", "-d", "refs/heads/topic")
    git(bench.repository.clone, "checkout", "--quiet", "main")
    git(bench.repository.clone, "branch", "--quiet", "-D", "topic")
    bench.repository.commit({"y.txt": "y\n"}, branch="topic/below")
    assert await bench.workspaces.resolve(bench.project, "topic/below")
    with pytest.raises(Unrecoverable):
        await bench.workspaces.resolve(bench.project, "topic")


async def test_locks_that_a_killed_git_left_are_removed(bench: Bench) -> None:
    await bench.workspaces.resolve(bench.project)
    mirror = bench.workspaces.mirror(bench.project)
    moved = bench.repository.commit({"x.txt": "x\n"})
    (mirror.path / "refs" / "remotes" / "origin" / "main.lock").write_text("")
    assert await bench.workspaces.resolve(bench.project) == moved


async def test_a_lock_that_a_killed_git_left_on_a_generated_branch_is_removed(bench: Bench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "a.txt").write_text("a\n")
        mirror = bench.workspaces.mirror(bench.project)
        lock = mirror.path / "refs" / "heads" / "corral" / "1.lock"
        lock.parent.mkdir(parents=True)
        lock.write_text("")
        made = await workspace.commit_all(branch="corral/1", message="x", author="R <r@x>", trailers={})
    assert await mirror.resolve("refs/heads/corral/1") == made
    assert not lock.exists()


async def test_a_commit_that_is_taken_back_leaves_the_branch_as_it_was(bench: Bench) -> None:
    mirror = bench.workspaces.mirror(bench.project)

    async def state() -> tuple[str | None, str | None]:
        stored = await bench.commits.tip(bench.project.id, "corral/1")
        return stored, await mirror.resolve("refs/heads/corral/1")

    async def commit(text: str, *, then: str | None = None) -> str:
        async with bench.workspaces.checkout(bench.project) as workspace:
            await workspace.take_back()  # there is nothing to take back yet
            (workspace.path / "a.txt").write_text(text)
            made = await workspace.commit_all(branch="corral/1", message=text, author="R <r@x>", trailers={})
        if then is not None:
            await commit(then)
        if text.startswith("bad"):
            await workspace.take_back()
        return made

    bad = await commit("bad")
    assert await state() == (None, None)
    assert await bench.commits.get(bench.project.id, bad) is None
    good = await commit("good")
    await commit("bad again")
    assert await state() == (good, good)
    assert await bench.commits.get(bench.project.id, good) is not None
    await commit("bad, and too late", then="better")
    stored, named = await state()
    assert stored == named
    assert git(mirror.path, "show", "-s", "--format=%s", str(named)).strip() == "better"


async def test_generated_branches_are_forgotten_when_they_are_old(bench: Bench) -> None:
    await bench.workspaces.resolve(bench.project)
    mirror = bench.workspaces.mirror(bench.project)
    tree = git(mirror.path, "rev-parse", f"{bench.repository.tip()}^{{tree}}")
    for name, date in (("old", "1700000000 +0000"), ("new", f"{int(time.time())} +0000")):
        made = await mirror.commit_tree(
            tree, [bench.repository.tip()], "x", author="R <r@x>", committer="R <r@x>", committer_date=date
        )
        await mirror.set_branch(name, made)
    (mirror.path / "corral-tidied").unlink()
    await bench.workspaces.resolve(bench.project, "main")
    assert git(mirror.path, "for-each-ref", "--format=%(refname)", "refs/heads").split() == ["refs/heads/new"]
    assert await mirror.branch("main") == bench.repository.tip()


async def test_a_command_that_is_cancelled_is_killed_with_its_children(tmp_path: Path) -> None:
    program = tmp_path / "slow-git"
    program.write_text(
        f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child.tmp\nmv {tmp_path}/child.tmp {tmp_path}/child\nwait\n"
    )
    program.chmod(0o755)
    running = asyncio.create_task(Git(program=str(program)).run("status"))
    while not (tmp_path / "child").exists():
        await asyncio.sleep(0.005)
    child = Path("/proc") / (tmp_path / "child").read_text().strip()
    assert child.exists()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(10):
        while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
            await asyncio.sleep(0.005)


async def test_a_mirror_that_was_deleted_is_made_again(bench: Bench) -> None:
    await bench.workspaces.resolve(bench.project)
    shutil.rmtree(bench.workspaces.mirror(bench.project).path)
    assert await bench.workspaces.resolve(bench.project) == bench.repository.tip()


async def test_a_lock_is_waited_for_and_told_when_it_takes_too_long(tmp_path: Path) -> None:
    held = try_lock(tmp_path / "lock")
    assert held is not None
    with pytest.raises(GitFailed) as raised:
        async with locked(tmp_path / "lock", timeout=timedelta(milliseconds=30)):
            pass
    assert (raised.value.reason, raised.value.retryable) == ("locked", True)
    os.close(held)
    async with locked(tmp_path / "lock", timeout=timedelta(milliseconds=30)):
        pass


async def test_commits_are_signed_when_the_worker_has_a_key(tmp_path: Path, bench: Bench) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    workspaces = Workspaces(data_dir=bench.data_dir, commits=bench.commits, signing=Signing(key))
    async with workspaces.checkout(bench.project) as workspace:
        (workspace.path / "a.txt").write_text("a\n")
        made = await workspace.commit_all(branch="corral/1", message="x", author="R <r@x>", trailers={})
    signers = tmp_path / "signers"
    signers.write_text(f"r@x {key.with_suffix('.pub').read_text()}")
    mirror = workspaces.mirror(bench.project).path
    git(mirror, "-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", made)


@pytest.mark.slow
async def test_a_large_checkout_costs_about_what_git_worktree_add_costs(tmp_path: Path, bench: Bench) -> None:
    files = {f"d{number // 100}/f{number}.py": f"# {number}\n" * 20 for number in range(5000)}
    bench.repository.commit(dict(files))
    await bench.workspaces.resolve(bench.project)
    mirror = bench.workspaces.mirror(bench.project).path

    async def ours() -> None:
        async with bench.workspaces.checkout(bench.project, bench.repository.tip()) as workspace:
            assert (workspace.path / "d49" / "f4999.py").exists()

    def theirs() -> None:
        git(mirror, "worktree", "add", "--quiet", "--detach", str(tmp_path / "wt"), bench.repository.tip())
        git(mirror, "worktree", "remove", "--force", str(tmp_path / "wt"))

    own = min([await _timed(ours) for _ in range(2)])
    plain = min(_timed_plain(theirs) for _ in range(2))
    print(f"\n5,000 files: {own * 1000:.0f} ms, git worktree add and remove: {plain * 1000:.0f} ms")  # noqa: T201
    assert own < plain * 1.5 + 0.3


async def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    await work()  # type: ignore[misc]
    return time.perf_counter() - start


def _timed_plain(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


async def test_a_remote_that_could_be_an_option_or_a_program_is_refused() -> None:
    for url in (
        "ext::sh -c id",
        "-u",
        "--upload-pack=x",
        "ssh://host/x",
        "git@host:x",
        "https://user:pw@host/x",
        "file:///x",
    ):
        with pytest.raises(GitFailed) as raised:
            GitRemote(url)
        assert raised.value.reason == "unsupported_address"
        assert "pw" not in str(raised.value)
        assert ("a user or a token in it" in str(raised.value)) is ("pw" in url)


async def test_a_submodule_is_never_fetched(tmp_path: Path, bench: Bench) -> None:
    mark = tmp_path / "ran"
    git(bench.repository.clone, "update-index", "--add", "--cacheinfo", f"160000,{bench.repository.tip()},sub")
    bench.repository.commit(
        {".gitmodules": f'[submodule "sub"]\npath = sub\nurl = ext::sh -c "touch {mark}"\nupdate = !touch {mark}\n'}
    )
    async with bench.workspaces.checkout(bench.project) as workspace:
        assert await workspace.changes() == []
        assert not any((workspace.path / "sub").glob("*"))
    assert not mark.exists()


async def test_endless_output_and_endless_commands_are_ended(tmp_path: Path, bench: Bench) -> None:
    mirror = Mirror(Git(max_output_bytes=1000), tmp_path / "small")
    await mirror.update(GitRemote(str(bench.repository.bare)))
    bench.repository.commit({"big.txt": "x\n" * 5000})
    await mirror.update(GitRemote(str(bench.repository.bare)))
    with pytest.raises(GitFailed) as raised:
        await Git(max_output_bytes=1000).run(
            "cat-file", "blob", "refs/remotes/origin/main:big.txt", git_dir=mirror.path
        )
    assert raised.value.reason == "output_too_large"
    with pytest.raises(GitFailed) as raised:
        await _endless(mirror)
    assert (raised.value.reason, raised.value.retryable) == ("timed_out", True)


async def _endless(mirror: Mirror) -> GitOutput:
    program = mirror.path.parent / "slow-git"
    program.write_text("#!/bin/sh\nsleep 600 & wait\n")
    program.chmod(0o755)
    return await Git(program=str(program)).run("status", git_dir=mirror.path, timeout=timedelta(milliseconds=100))
