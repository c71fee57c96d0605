"""Against folders that look like the kernel's; the real ones are met in the integration tests."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from corral.adapters.sandbox.cgroups import Cgroup, CgroupEvents, CgroupTree
from corral.adapters.sandbox.port import SandboxLimits

LIMITS = SandboxLimits(memory_bytes=64 << 20, processes=7, cpu=timedelta(seconds=1))


def process(tmp_path: Path, *, mounts: str, groups: str) -> Path:
    folder = tmp_path / "self"
    folder.mkdir()
    (folder / "mountinfo").write_text(mounts)
    (folder / "cgroup").write_text(groups)
    return folder


def v2(tmp_path: Path, *, enabled: str, own: str = "/user", processes: str = "") -> tuple[Path, Path]:
    root = tmp_path / "unified"
    folder = root / own.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (folder / "cgroup.subtree_control").write_text(enabled)
    (folder / "cgroup.type").write_text("domain\n")
    (folder / "cgroup.procs").write_text(processes)
    mounts = f"30 20 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw\n"
    return process(tmp_path, mounts=mounts, groups=f"0::{own}\n"), folder


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    mounts = "".join(
        f"3{number} 20 0:2{number} / {tmp_path}/{name} rw - cgroup cgroup rw,{name}\n"
        for number, name in enumerate(["memory", "pids", "cpuacct", "devices"])
    )
    for path in ("memory/jobs", "pids", "cpuacct"):
        (tmp_path / path).mkdir(parents=True)
    tree = CgroupTree.discover(
        process=process(tmp_path, mounts=mounts, groups="3:memory:/jobs\n2:pids:/\n1:cpuacct:/\n4:devices:/\n")
    )
    assert tree.version == 1
    assert tree.controllers == {"memory", "pids", "cpuacct"}
    group = tree.make("corral-1")
    assert group is not None
    group.bound(LIMITS)
    group.add(123)
    memory = tmp_path / "memory" / "jobs" / "corral-1"
    assert (memory / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (memory / "cgroup.procs").read_text() == "123"
    assert (tmp_path / "pids" / "corral-1" / "pids.max").read_text() == "7"


def test_version_1_events(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (tmp_path / "pids.events").write_text("max 5\n")
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("4096\n")
    group = Cgroup(dict.fromkeys(("memory", "pids", "cpuacct"), tmp_path), version=1)
    assert group.events() == CgroupEvents(2, 5, 1.5)
    assert group.peak_memory_bytes() == 4096


def test_version_2_in_a_group_that_hands_out_controllers(tmp_path: Path) -> None:
    where, folder = v2(tmp_path, enabled="memory pids cpu")
    tree = CgroupTree.discover(process=where)
    assert tree.version == 2
    assert tree.controllers == {"memory", "pids", "cpu"}
    group = tree.make("corral-1")
    assert group is not None
    assert group.folders == (folder / "corral-1",)
    group.bound(LIMITS)
    assert (folder / "corral-1" / "memory.max").read_text() == str(64 << 20)
    assert (folder / "corral-1" / "memory.swap.max").read_text() == "0"
    assert (folder / "corral-1" / "memory.oom.group").read_text() == "1"


def test_version_2_events(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "pids.events").write_text("max 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    group = Cgroup(dict.fromkeys(("memory", "pids"), tmp_path), version=2)
    assert group.events() == CgroupEvents(1, 0, 2.5)


def test_version_2_alone_in_its_group_the_worker_makes_room(tmp_path: Path) -> None:
    where, folder = v2(tmp_path, enabled="", processes=f"{os.getpid()}\n")
    CgroupTree.discover(process=where)
    assert (folder / "corral-worker" / "cgroup.procs").read_text() == str(os.getpid())
    assert (folder / "cgroup.subtree_control").read_text().startswith("+")


def test_version_2_the_processes_of_others_are_not_moved(tmp_path: Path) -> None:
    where, folder = v2(tmp_path, enabled="", processes=f"{os.getpid()}\n99999\n")
    tree = CgroupTree.discover(process=where)
    assert tree.controllers == frozenset()
    assert tree.make("corral-1") is None
    assert not (folder / "corral-worker").exists()


def test_a_container_sees_its_part_of_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("memory pids")
    (root / "cgroup.subtree_control").write_text("memory pids")
    mounts = f"30 20 0:26 /docker/abc {root} rw - cgroup2 cgroup rw\n"
    where = process(tmp_path, mounts=mounts, groups="0::/docker/abc\n")
    assert CgroupTree.discover(process=where).controllers == {"memory", "pids"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_without_rights_there_are_no_controllers(tmp_path: Path) -> None:
    where, folder = v2(tmp_path, enabled="memory pids")
    folder.chmod(0o555)
    assert CgroupTree.discover(process=where).controllers == frozenset()
    folder.chmod(0o755)


def test_without_cgroups_there_are_no_controllers(tmp_path: Path) -> None:
    assert CgroupTree.discover(process=tmp_path / "none").controllers == frozenset()
    where = process(tmp_path, mounts="21 1 8:1 / / rw - ext4 /dev/sda rw\n", groups="0::/\n")
    assert CgroupTree.discover(process=where).make("x") is None


CONTAINER = "0f3c" * 16
V1 = ("memory", "pids", "cpuacct")


def of_container(tmp_path: Path, *, mounts: str, groups: str) -> Cgroup | None:
    process(tmp_path, mounts=mounts, groups="")
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(groups)
    return Cgroup.of_container(42, CONTAINER, proc=tmp_path)


def v1_mounts(tmp_path: Path) -> str:
    return "".join(f"30 20 0:26 / {tmp_path}/{name} rw - cgroup cgroup rw,{name}\n" for name in V1)


@pytest.mark.parametrize("path", [f"/libpod_parent/libpod-{CONTAINER}", f"/system.slice/docker-{CONTAINER}.scope"])
def test_version_1_a_containers_group_is_named_by_its_id(tmp_path: Path, path: str) -> None:
    groups = "".join(f"{number}:{name}:{path}\n" for number, name in enumerate(V1))
    group = of_container(tmp_path, mounts=v1_mounts(tmp_path), groups=groups)
    assert group is not None
    assert set(group.folders) == {tmp_path / name / path.lstrip("/") for name in V1}


@pytest.mark.parametrize("path", ["/", "/the-workers-own", f"/docker/{'1' * 64}"])
def test_version_1_the_group_of_others_is_not_the_containers(tmp_path: Path, path: str) -> None:
    """The root is what the kernel says of a process that has ended; its counter is the whole machine's."""
    (tmp_path / "cpuacct").mkdir()
    (tmp_path / "cpuacct" / "cpuacct.usage").write_text("26116000000000\n")
    groups = "".join(f"{number}:{name}:{path}\n" for number, name in enumerate(V1))
    assert of_container(tmp_path, mounts=v1_mounts(tmp_path), groups=groups) is None


def test_version_1_a_controller_without_the_containers_group_is_left_out(tmp_path: Path) -> None:
    groups = f"1:memory:/docker/{CONTAINER}\n2:pids:/docker/{CONTAINER}\n3:cpuacct:/\n"
    group = of_container(tmp_path, mounts=v1_mounts(tmp_path), groups=groups)
    assert group is not None
    assert group.holds("memory")
    assert group.events().cpu_seconds is None


@pytest.mark.parametrize("below", ["", "/container"])
def test_version_2_a_containers_group_is_named_by_its_id(tmp_path: Path, below: str) -> None:
    folder = tmp_path / "unified" / f"libpod-{CONTAINER}.scope"
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpu memory pids\n")
    mounts = f"30 20 0:26 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
    group = of_container(tmp_path, mounts=mounts, groups=f"0::/{folder.name}{below}\n")
    assert group is not None
    assert group.folders == (folder,)


@pytest.mark.parametrize("path", ["/", "/the-workers-own", f"/libpod-{CONTAINER} (deleted)"])
def test_version_2_the_group_of_others_is_not_the_containers(tmp_path: Path, path: str) -> None:
    for name in ("unified", "unified/the-workers-own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.controllers").write_text("cpu memory pids\n")
    mounts = f"30 20 0:26 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
    assert of_container(tmp_path, mounts=mounts, groups=f"0::{path}\n") is None


def test_a_container_whose_process_is_gone_has_no_group(tmp_path: Path) -> None:
    process(tmp_path, mounts=v1_mounts(tmp_path), groups="")
    assert Cgroup.of_container(42, CONTAINER, proc=tmp_path) is None
