"""Programs that want out: what is to be seen and done from inside, and what is not."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from tests.integration.sandbox.conftest import Cell

from corral.adapters.sandbox.port import Mount
from corral.errors import SandboxFailed


async def test_only_the_listed_variables_are_seen(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret")
    ran = await cell.shell("env; cat /proc/*/environ | tr '\\0' '\\n'", env={"GREETING": "hello"})
    assert "GREETING=hello" in ran.output
    assert "ghp_secret" not in ran.output
    names = {line.partition("=")[0] for line in ran.output.splitlines()}
    assert names <= {
        "GREETING", "PATH", "HOME", "TMPDIR", "LANG", "USER", "LOGNAME", "SHELL", "CI", "PWD", "OLDPWD", "SHLVL", "_",
        "container",
    }  # fmt: skip


async def test_variables_do_not_act_on_the_sandbox_itself(cell: Cell) -> None:
    ran = await cell.shell("echo fine", env={"LD_PRELOAD": str(cell.worktree / "evil.so"), "LD_AUDIT": "/evil"})
    assert "fine" in ran.output


async def test_no_variable_is_in_a_command_line_on_the_host(cell: Cell) -> None:
    lines: list[str] = []

    def look(_: bytes) -> None:
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    lines.append(Path(entry.path, "cmdline").read_text())
                    lines.append(Path(entry.path, "environ").read_text() if "bwrap" in lines[-1] else "")
                except OSError:
                    continue

    await cell.shell("echo look; sleep 0.1", env={"PASSWORD": "s3cret-value"}, on_output=look)
    assert any("bwrap" in line for line in lines)
    assert not any("s3cret-value" in line for line in lines)


async def test_the_host_is_not_seen(cell: Cell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host secret")
    ran = await cell.shell(
        f"cat {secret}; cat /etc/shadow /etc/sudoers; ls -A /root /home ~/.ssh /var/run /var/lib /srv /opt /sys /boot; "
        "ls /proc | grep -c '^[0-9]'; ls /var/run/docker.sock /run/docker.sock"
    )
    assert "host secret" not in ran.output
    assert "root:x" not in ran.output
    assert "root:*" not in ran.output
    assert ".bashrc" not in ran.output
    assert "docker.sock\n" not in ran.output.replace("'", "")
    assert [int(line) < 8 for line in ran.output.splitlines() if line.isdigit()] == [True]


async def test_processes_of_the_host_are_not_seen(cell: Cell) -> None:
    ran = await cell.python(
        f"""
        import os
        print(os.getpid(), sorted(int(p) for p in os.listdir("/proc") if p.isdigit()))
        try:
            os.kill({os.getpid()}, 0)
            print("seen")
        except ProcessLookupError:
            print("not there")
        """
    )
    assert "not there" in ran.output
    assert "seen\n" not in ran.output


async def test_nothing_outside_of_worktree_and_tmp_can_be_written(cell: Cell) -> None:
    ran = await cell.python(
        """
        import os
        for path in ("/x", "/usr/x", "/etc/x", "/etc/passwd", "/bin/x", "/dev/x", "/corral/x",
                     "/proc/sys/kernel/hostname",
                     "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/user/max_user_namespaces",
                     "/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/1/mem", "/run/x"):
            try:
                open(path, "r+" if os.path.exists(path) else "w").close()
                print("WROTE", path)
            except OSError as error:
                print(type(error).__name__, path)
        for path in ("/workspace/x", "/tmp/x", "/tmp/home/x", "/dev/shm/x"):
            open(path, "w").close()
        """
    )
    assert ran.result.exit_code == 0, ran.output
    assert "WROTE" not in ran.output


async def test_device_files_are_not_the_hosts(cell: Cell) -> None:
    before = Path("/dev/null").stat()
    ran = await cell.shell("chmod 600 /dev/null /proc/self/fd/0; touch -d 2001-01-01 /dev/null; echo x > /dev/null")
    after = Path("/dev/null").stat()
    assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)
    assert ran.result.ending == "exited"


async def test_only_harmless_descriptors_are_inherited(cell: Cell) -> None:
    held = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        ran = await cell.python(
            """
            import os
            for fd in range(256):
                try:
                    print(fd, os.readlink(f"/proc/self/fd/{fd}").partition(":")[0])
                except OSError:
                    pass
            """
        )
    finally:
        os.close(held)
    assert ran.output.splitlines() == ["0 pipe", "1 pipe", "2 pipe"]


async def test_links_in_the_worktree_lead_nowhere_else(cell: Cell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host secret")
    (cell.worktree / "absolute").symlink_to(secret)
    (cell.worktree / "relative").symlink_to(Path("../secret"))
    (cell.worktree / "folder").symlink_to("/root")
    ran = await cell.shell("cat absolute relative; ls folder; echo x > absolute")
    assert "host secret" not in ran.output
    assert secret.read_text() == "host secret"


async def test_a_mount_point_behind_a_link_is_refused(cell: Cell, tmp_path: Path) -> None:
    (cell.worktree / "deps").symlink_to(tmp_path)
    (tmp_path / "cache").mkdir()
    mount = Mount(source=tmp_path / "cache", target=PurePosixPath("/workspace/deps/inner"))
    with pytest.raises(SandboxFailed, match="symbolic link"):
        await cell.shell("true", mounts=(mount,))
    assert not (tmp_path / "inner").exists()


async def test_git_metadata_is_hidden_and_cannot_be_written(cell: Cell) -> None:
    hooks = cell.worktree / ".git" / "hooks"
    hooks.mkdir(parents=True)
    (cell.worktree / ".git" / "config").write_text("[core]\n")
    ran = await cell.shell(
        "ls -A .git; echo evil > .git/config; mkdir -p .git/hooks; mv .git aside; rm -rf .git; echo end"
    )
    assert "config" not in ran.output.replace(".git/config", "")
    assert (cell.worktree / ".git" / "config").read_text() == "[core]\n"
    assert ran.output.endswith("end\n")


async def test_a_git_file_is_hidden(cell: Cell) -> None:
    (cell.worktree / ".git").write_text("gitdir: /mirrors/secret\n")
    ran = await cell.shell("cat .git; echo 'gitdir: /evil' > .git; rm -f .git")
    assert "mirrors" not in ran.output
    assert (cell.worktree / ".git").read_text() == "gitdir: /mirrors/secret\n"


async def test_a_repository_cannot_be_made_where_there_is_none(cell: Cell) -> None:
    await cell.shell("git init .; mkdir .git; echo x > .git")
    assert not os.path.lexists(cell.worktree / ".git")


async def test_a_worktree_whose_git_is_a_link_is_refused(cell: Cell, tmp_path: Path) -> None:
    (cell.worktree / ".git").symlink_to(tmp_path)
    with pytest.raises(SandboxFailed, match="symbolic link"):
        await cell.shell("true")


async def test_there_are_no_privileges_to_gain(cell: Cell) -> None:
    ran = await cell.shell(
        "id -u; grep -E '^(NoNewPrivs|CapEff|CapBnd|Seccomp):' /proc/self/status; unshare -U true; unshare -n true; "
        "su -c id; mount -t tmpfs x /tmp; chroot /tmp true"
    )
    lines = ran.output.split()
    assert lines[0] == "65534"
    assert lines[1:9] == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert "uid=0" not in ran.output


async def test_dangerous_system_calls_are_refused(cell: Cell) -> None:
    ran = await cell.python(
        """
        import ctypes, errno, fcntl, os, pty, socket, struct
        libc = ctypes.CDLL(None, use_errno=True)

        def refused(name, result, *errors):
            print(name, "refused" if result == -1 and ctypes.get_errno() in errors else f"ALLOWED {result}")

        child = os.fork()
        if child == 0:
            import time
            time.sleep(5)
            os._exit(0)
        refused("ptrace", libc.ptrace(16, child, 0, 0), errno.EPERM)
        refused("ptrace_traceme", libc.ptrace(0, 0, 0, 0), errno.EPERM)
        refused("unshare", libc.unshare(0x10000000), errno.EPERM)
        refused("setns", libc.setns(0, 0), errno.EPERM)
        refused("mount", libc.mount(b"x", b"/tmp", b"tmpfs", 0, None), errno.EPERM)
        refused("personality", libc.personality(0x0040000), errno.EPERM)
        number = {"x86_64": {"keyctl": 250, "bpf": 321, "io_uring_setup": 425, "userfaultfd": 323, "clone3": 435,
                             "process_vm_readv": 310, "perf_event_open": 298, "add_key": 248, "openat2": 437},
                  "aarch64": {"keyctl": 219, "bpf": 280, "io_uring_setup": 425, "userfaultfd": 282, "clone3": 435,
                              "process_vm_readv": 270, "perf_event_open": 241, "add_key": 217, "openat2": 437}}
        for name, value in number[os.uname().machine].items():
            refused(name, libc.syscall(value, 0, 0, 0, 0, 0, 0), errno.EPERM, errno.ENOSYS)
        leader, follower = pty.openpty()
        for name, request in (("TIOCSTI", 0x5412), ("TIOCSTI_high_bits", 0x5412 | (1 << 40))):
            result = libc.ioctl(ctypes.c_int(follower), ctypes.c_ulong(request), ctypes.c_char_p(b"x"))
            refused(name, result, errno.EPERM)
        for name, family, kind, protocol in (("vsock", 40, 1, 0), ("packet", 17, 3, 0), ("alg", 38, 5, 0),
                                             ("netlink_audit", 16, 3, 9), ("bluetooth", 31, 3, 0)):
            refused(name, libc.socket(family, kind, protocol), errno.EAFNOSUPPORT)
        open("file", "w").close()
        refused("chmod_setuid", libc.chmod(b"file", 0o4755), errno.EPERM)
        refused("open_setuid", libc.open(b"new", os.O_CREAT | os.O_WRONLY, 0o4755), errno.EPERM)
        """
    )
    assert "ALLOWED" not in ran.output, ran.output
    assert len(ran.output.splitlines()) >= 24, ran.output
    assert not any(path.stat().st_mode & stat.S_ISUID for path in cell.worktree.iterdir())


async def test_ordinary_things_still_work(cell: Cell) -> None:
    ran = await cell.python(
        """
        import multiprocessing, os, pty, shutil, socket, subprocess, sqlite3, tempfile, threading
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        assert socket.if_nameindex()[0][1] == "lo"
        left, right = socket.socketpair()
        assert subprocess.run(["sh", "-c", "echo hi | cat"], capture_output=True, text=True).stdout == "hi\\n"
        assert subprocess.run(["true"], start_new_session=True).returncode == 0
        sqlite3.connect("db").execute("create table t (a)")
        os.chmod("db", 0o700)
        os.mkfifo("fifo")
        with tempfile.TemporaryDirectory() as folder:
            os.symlink("x", folder + "/y")
        thread = threading.Thread(target=print, args=("threads",)); thread.start(); thread.join()
        assert os.getlogin if False else True
        import pwd
        assert pwd.getpwuid(os.getuid()).pw_name == "corral"
        assert os.path.expanduser("~") == "/tmp/home" and socket.gethostbyname("localhost") == "127.0.0.1"
        open(os.devnull, "r+b").close()
        print("fine")
        """
    )
    assert ran.output == "threads\nfine\n", ran.output


@pytest.fixture
def listeners() -> Iterator[dict[str, object]]:
    """Servers of the host that a program may look for: TCP, and a socket with an abstract name."""
    tcp = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    name = f"corral-test-{os.getpid()}"
    abstract.bind(f"\0{name}")
    abstract.listen()
    seen: list[str] = []

    def accept(server: socket.socket, what: str) -> None:
        try:
            server.accept()[0].close()
            seen.append(what)
        except OSError:
            pass

    threads = [threading.Thread(target=accept, args=pair) for pair in ((tcp, "tcp"), (abstract, "abstract"))]
    for thread in threads:
        thread.start()
    yield {"port": tcp.getsockname()[1], "name": name, "seen": seen}
    for server in (tcp, abstract):
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join()


async def test_there_is_no_network(cell: Cell, listeners: dict[str, object]) -> None:
    ran = await cell.python(
        f"""
        import socket
        socket.setdefaulttimeout(2)
        for where in (("127.0.0.1", {listeners["port"]}), ("169.254.169.254", 80), ("fd00:ec2::254", 80),
                      ("10.0.0.1", 80), ("192.0.2.1", 443)):
            try:
                socket.create_connection(where)
                print("CONNECTED", where)
            except OSError as error:
                print(type(error).__name__, where)
        try:
            socket.getaddrinfo("example.org", 80)
            print("RESOLVED")
        except OSError:
            print("no names")
        abstract = socket.socket(socket.AF_UNIX)
        try:
            abstract.connect("\\0{listeners["name"]}")
            print("CONNECTED abstract")
        except OSError as error:
            print(type(error).__name__)
        print([name for _, name in socket.if_nameindex()])
        """
    )
    assert "CONNECTED" not in ran.output
    assert "RESOLVED" not in ran.output
    assert ran.output.endswith("['lo']\n")
    assert listeners["seen"] == []


async def test_paths_with_line_breaks_and_odd_bytes(cell: Cell) -> None:
    odd = cell.worktree / "a\nb \"c\" 'd' $(e)"
    odd.mkdir()
    inside = Mount(source=odd, target=PurePosixPath("/corral/a\nb"))
    ran = await cell.shell("ls -1 | wc -l; ls /corral | wc -l; echo x > \"$(printf '\\377')\"", mounts=(inside,))
    assert ran.result.exit_code == 0
    assert len(list(cell.worktree.iterdir())) == 2


async def test_settings_of_package_managers_in_the_toolchain_are_masked(tmp_path: Path) -> None:
    from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox  # noqa: PLC0415 - one test's own sandbox

    prefix = tmp_path / "prefix"
    (prefix / "etc").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "pip.conf").write_text("index-url = https://user:token@example.org")
    (prefix / "etc" / "npmrc").write_text("_authToken=token")
    (prefix / "bin" / "tool").write_text("#!/bin/sh\necho tool runs\n")
    (prefix / "bin" / "tool").chmod(0o755)
    worktree = tmp_path / "tree"
    worktree.mkdir()
    sandbox = BubblewrapSandbox(home=tmp_path / "runs", read_only_paths=[prefix])
    cell = Cell(sandbox, worktree, tmp_path / "runs")
    ran = await cell.shell(f"tool; cat {prefix}/pip.conf {prefix}/etc/npmrc; echo x > {prefix}/bin/tool")
    await sandbox.close()
    assert "tool runs" in ran.output
    assert "token" not in ran.output.replace("_authToken", "").replace(str(tmp_path), "")
    assert (prefix / "bin" / "tool").read_text().startswith("#!")
