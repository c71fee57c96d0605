"""The system-call filter of the bubblewrap sandbox, as classic BPF, generated here.

No C library is needed: a seccomp filter is a list of 8-byte instructions (``struct sock_filter`` in
``linux/filter.h``) over ``struct seccomp_data`` (``linux/seccomp.h``: ``nr`` at 0, ``arch`` at 4, six 64-bit arguments
from 16). The list below denies; what it does not name is allowed, because a test suite may use any ordinary call, and
what contains the program is the namespaces. The filter takes away the kernel's rarely used and often exploited
entrances, and what namespaces do not cover (vsock, ``TIOCSTI``, set-user-id files in the worktree).

The numbers come from the kernel's ``unistd_64.h`` (x86-64) and ``asm-generic/unistd.h`` (arm64); a test compares them.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from corral.errors import SandboxUnavailable

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000

#: Name → number, for each machine. A call that one of the machines lacks is left out there.
SYSCALLS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "open": 2, "ioctl": 16, "socket": 41, "socketpair": 53, "clone": 56, "creat": 85, "chmod": 90, "fchmod": 91,
        "ptrace": 101, "syslog": 103, "mknod": 133, "uselib": 134, "personality": 135, "sysfs": 139, "vhangup": 153,
        "modify_ldt": 154, "pivot_root": 155, "_sysctl": 156, "chroot": 161, "acct": 163, "settimeofday": 164,
        "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
        "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
        "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
        "lookup_dcookie": 212, "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249,
        "keyctl": 250, "migrate_pages": 256, "openat": 257, "mknodat": 259, "fchmodat": 268, "unshare": 272,
        "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
        "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
        "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435,
        "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
        "memfd_secret": 447, "fchmodat2": 452,
    },
    "aarch64": {
        "lookup_dcookie": 18, "ioctl": 29, "mknodat": 33, "umount2": 39, "mount": 40, "pivot_root": 41,
        "nfsservctl": 42, "chroot": 51, "fchmod": 52, "fchmodat": 53, "openat": 56, "vhangup": 58, "quotactl": 60,
        "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106,
        "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161, "setdomainname": 162,
        "settimeofday": 170, "socket": 198, "socketpair": 199, "add_key": 217, "request_key": 218, "keyctl": 219,
        "clone": 220, "swapon": 224, "swapoff": 225, "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241,
        "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "bpf": 280,
        "userfaultfd": 282, "kexec_file_load": 294, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440,
        "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "fchmodat2": 452,
    },
}  # fmt: skip

#: Refused whatever their arguments.
_REFUSED: Final = (
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",  # other processes
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "setns", "name_to_handle_at", "open_by_handle_at", "fanotify_init",  # the file tree
    "add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "memfd_secret",  # kernel entrances
    "init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms", "kexec_load",
    "kexec_file_load", "iopl", "ioperm", "modify_ldt", "uselib", "sysfs", "_sysctl", "nfsservctl", "lookup_dcookie",
    "migrate_pages", "move_pages", "swapon", "swapoff", "reboot", "acct", "quotactl", "quotactl_fd", "vhangup",
    "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "syslog",  # the machine
)  # fmt: skip
#: Said to be missing, so that programs and libraries fall back to what can be filtered (the arguments of these lie in
#: memory, where a filter can't look) or to what is not an entrance at all (``io_uring``).
_MISSING: Final = ("clone3", "openat2", "fchmodat2", "io_uring_setup", "io_uring_enter", "io_uring_register")

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
#: CLONE_NEWTIME NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET
_NEW_NAMESPACES = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
#: CLONE_NEWTIME is a part of the exit signal in ``clone``.
_CLONE_NAMESPACES = _NEW_NAMESPACES & ~0x80
_O_CREAT = 0x40
_SET_ID_BITS = 0o6000
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


class _Test(Enum):
    EQUAL = auto()
    DIFFERENT = auto()
    ANY_BIT = auto()


@dataclass(frozen=True, slots=True)
class _Condition:
    argument: int
    test: _Test
    value: int


_ARGUMENT_RULES: Final[tuple[tuple[str, int, tuple[_Condition, ...]], ...]] = (
    # Only local, IP, and routing-table sockets: no vsock, packet, Bluetooth, AF_ALG, ... (network namespaces do not
    # hold all of them, and several were entrances to the kernel).
    (
        "socket",
        errno.EAFNOSUPPORT,
        tuple(_Condition(0, _Test.DIFFERENT, family) for family in (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)),
    ),
    (
        "socket",
        errno.EAFNOSUPPORT,
        (_Condition(0, _Test.EQUAL, _AF_NETLINK), _Condition(2, _Test.DIFFERENT, _NETLINK_ROUTE)),
    ),
    ("socketpair", errno.EAFNOSUPPORT, (_Condition(0, _Test.DIFFERENT, _AF_UNIX),)),
    ("ioctl", errno.EPERM, (_Condition(1, _Test.EQUAL, _TIOCSTI),)),
    ("ioctl", errno.EPERM, (_Condition(1, _Test.EQUAL, _TIOCLINUX),)),
    ("ioctl", errno.EPERM, (_Condition(1, _Test.EQUAL, _TIOCSETD),)),
    ("clone", errno.EPERM, (_Condition(0, _Test.ANY_BIT, _CLONE_NAMESPACES),)),
    ("unshare", errno.EPERM, (_Condition(0, _Test.ANY_BIT, _NEW_NAMESPACES),)),
    ("personality", errno.EPERM, tuple(_Condition(0, _Test.DIFFERENT, value) for value in _PERSONALITIES)),
    # A set-user-id file in the worktree would be the worker's on the host.
    ("chmod", errno.EPERM, (_Condition(1, _Test.ANY_BIT, _SET_ID_BITS),)),
    ("fchmod", errno.EPERM, (_Condition(1, _Test.ANY_BIT, _SET_ID_BITS),)),
    ("fchmodat", errno.EPERM, (_Condition(2, _Test.ANY_BIT, _SET_ID_BITS),)),
    ("creat", errno.EPERM, (_Condition(1, _Test.ANY_BIT, _SET_ID_BITS),)),
    ("mknod", errno.EPERM, (_Condition(1, _Test.ANY_BIT, _SET_ID_BITS),)),
    ("mknodat", errno.EPERM, (_Condition(2, _Test.ANY_BIT, _SET_ID_BITS),)),
    ("open", errno.EPERM, (_Condition(1, _Test.ANY_BIT, _O_CREAT), _Condition(2, _Test.ANY_BIT, _SET_ID_BITS))),
    ("openat", errno.EPERM, (_Condition(2, _Test.ANY_BIT, _O_CREAT), _Condition(3, _Test.ANY_BIT, _SET_ID_BITS))),
)

# linux/bpf_common.h, linux/filter.h: load a word at an absolute offset; jumps against a constant; return.
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16

_Instruction = tuple[int, int, int, int]


def _low_word(argument: int) -> int:
    # The kernel itself looks at the low 32 bits of every argument that is tested here; comparing all 64 would let
    # a program pass by setting a high bit.
    return _ARGUMENTS_OFFSET + 8 * argument


def _conditional(number: int, error: int, conditions: tuple[_Condition, ...]) -> list[_Instruction]:
    tests: list[_Instruction] = []
    for position, condition in enumerate(conditions):
        # To the reload of the number that ends this rule: over the tests that follow, and the return.
        past = 2 * (len(conditions) - position - 1) + 1
        tests.append((_LOAD, 0, 0, _low_word(condition.argument)))
        if condition.test is _Test.EQUAL:
            tests.append((_JUMP_EQUAL, 0, past, condition.value))
        elif condition.test is _Test.DIFFERENT:
            tests.append((_JUMP_EQUAL, past, 0, condition.value))
        else:
            tests.append((_JUMP_ANY_BIT, 0, past, condition.value))
    body = [*tests, (_RETURN, 0, 0, _ERRNO | error), (_LOAD, 0, 0, _NR_OFFSET)]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def filter_program(machine: str | None = None) -> bytes:
    """Build the filter.

    Args:
        machine: As ``platform.machine()`` says it; None takes this machine's.

    Returns:
        The instructions, 8 bytes each in the machine's byte order, as ``bwrap --seccomp`` reads them.

    Raises:
        SandboxUnavailable: There is no list of system calls for this kind of machine.
    """
    machine = machine or platform.machine()
    if machine not in SYSCALLS:
        raise SandboxUnavailable(
            f"the bubblewrap sandbox knows the system calls of {', '.join(SYSCALLS)}, not of {machine!r}: "
            "set CORRAL_SANDBOX to docker or podman"
        )
    numbers = SYSCALLS[machine]
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NR_OFFSET),
    ]
    if machine == "x86_64":
        program += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for names, error in ((_REFUSED, errno.EPERM), (_MISSING, errno.ENOSYS)):
        for name in names:
            if name in numbers:
                program += [(_JUMP_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | error)]
    for name, error, conditions in _ARGUMENT_RULES:
        if name in numbers:
            program += _conditional(numbers[name], error, conditions)
    program.append((_RETURN, 0, 0, _ALLOW))
    order = "<" if sys.byteorder == "little" else ">"
    return b"".join(struct.pack(f"{order}HBBI", *instruction) for instruction in program)
