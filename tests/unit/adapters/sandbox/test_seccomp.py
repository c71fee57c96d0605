from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from corral.adapters.sandbox.seccomp import SYSCALLS, filter_program
from corral.errors import SandboxUnavailable

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def evaluate(program: bytes, *, arch: int, nr: int, args: tuple[int, ...] = ()) -> int:
    """Run a filter as the kernel does, for the instructions that it uses."""
    data = struct.pack("<IIQ6Q", nr, arch, 0, *(*args, *[0] * (6 - len(args))))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x06:
            return int(k)
        else:
            test = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += if_true if test else if_false


def says(machine: str, name: str | int, *args: int) -> int:
    nr = SYSCALLS[machine][name] if isinstance(name, str) else name
    return evaluate(filter_program(machine), arch=_ARCHES[machine], nr=nr, args=args)


def refusal(error: int) -> int:
    return 0x00050000 | error


@pytest.mark.parametrize("machine", SYSCALLS)
class TestFilter:
    @pytest.mark.parametrize("name", ["ptrace", "mount", "bpf", "keyctl", "setns", "perf_event_open", "userfaultfd"])
    def test_entrances_are_refused(self, machine: str, name: str) -> None:
        assert says(machine, name) == refusal(errno.EPERM)

    @pytest.mark.parametrize("name", ["clone3", "openat2", "io_uring_setup", "fchmodat2"])
    def test_what_cannot_be_looked_into_is_missing(self, machine: str, name: str) -> None:
        assert says(machine, name) == refusal(errno.ENOSYS)

    @pytest.mark.parametrize(
        ("family", "protocol", "allowed"),
        [(1, 0, True), (2, 6, True), (10, 0, True), (16, 0, True), (16, 9, False), (40, 0, False), (17, 0, False),
         (38, 0, False), (0, 0, False)],
    )  # fmt: skip
    def test_sockets(self, machine: str, family: int, protocol: int, *, allowed: bool) -> None:
        expected = _ALLOW if allowed else refusal(errno.EAFNOSUPPORT)
        assert says(machine, "socket", family, 1, protocol) == expected

    def test_high_bits_of_an_argument_do_not_help(self, machine: str) -> None:
        assert says(machine, "ioctl", 0, 0x5412 | (1 << 40)) == refusal(errno.EPERM)
        assert says(machine, "socket", 40 | (1 << 33), 1, 0) == refusal(errno.EAFNOSUPPORT)

    def test_terminals_can_be_asked_but_not_typed_into(self, machine: str) -> None:
        assert says(machine, "ioctl", 0, 0x5401) == _ALLOW
        assert says(machine, "ioctl", 0, 0x5412) == refusal(errno.EPERM)

    def test_threads_and_processes_but_no_namespaces(self, machine: str) -> None:
        assert says(machine, "clone", 0x003D0F00) == _ALLOW  # pthread_create
        assert says(machine, "clone", 0x01200011) == _ALLOW  # fork
        for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000):
            assert says(machine, "clone", flag | 17) == refusal(errno.EPERM)
            assert says(machine, "unshare", flag) == refusal(errno.EPERM)

    def test_no_set_user_id_files(self, machine: str) -> None:
        assert says(machine, "fchmodat", 0, 0, 0o755) == _ALLOW
        assert says(machine, "fchmodat", 0, 0, 0o4755) == refusal(errno.EPERM)
        assert says(machine, "openat", 0, 0, 0o101, 0o2755) == refusal(errno.EPERM)
        # Without O_CREAT the mode is whatever was in the register.
        assert says(machine, "openat", 0, 0, 0, 0o6777) == _ALLOW

    def test_personality(self, machine: str) -> None:
        assert says(machine, "personality", 0xFFFFFFFF) == _ALLOW
        assert says(machine, "personality", 0x0040000) == refusal(errno.EPERM)

    def test_another_architecture_is_killed(self, machine: str) -> None:
        assert evaluate(filter_program(machine), arch=0x40000003, nr=1) == _KILL

    def test_jumps_stay_inside(self, machine: str) -> None:
        instructions = list(struct.iter_unpack("<HBBI", filter_program(machine)))
        assert len(instructions) < 4096
        for at, (code, if_true, if_false, _) in enumerate(instructions):
            if code != 0x06:
                assert at + 1 + max(if_true, if_false) < len(instructions)


def test_the_x32_calls_are_missing() -> None:
    assert says("x86_64", 0x40000000 | 101) == refusal(errno.ENOSYS)


def test_an_unknown_machine_is_refused_by_name() -> None:
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        filter_program("riscv64")


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_the_kernels(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    known = {
        name: int(number)
        for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    }
    found = {name: number for name, number in SYSCALLS[machine].items() if name in known}
    assert len(found) > 50
    assert found == {name: known[name] for name in found}
