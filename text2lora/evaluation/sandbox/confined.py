"""Run as a script: confines its own process for good, then runs a program. Standard library only.

Arguments: the program's path, bytes of memory, seconds of processor time, bytes of output. A secret comes on standard
input; it is the last thing written when the program has run to its end, so that `exit()` in it does not count as that.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import types

CANNOT_CONFINE = 99
"""Exit code of a process that could not be confined, and has run nothing."""

# System calls that plain computation needs, by number: x86-64, ARM64 (None where it has no such call). What is not
# here is refused: sockets, new processes and threads, programs, signals to others, changes of files, namespaces.
ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57),
    "lseek": (8, 62), "fstat": (5, 80), "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17), "dup": (32, 23),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "futex": (202, 98), "membarrier": (324, 283), "set_robust_list": (273, 99), "rseq": (334, 293),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "exit": (60, 93), "exit_group": (231, 94), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "time": (201, None), "getrandom": (318, 278), "select": (23, None), "pselect6": (270, 72),
}  # fmt: skip
# Allowed for these values of one argument: its index, then the values.
FOR_VALUES: dict[str, tuple[tuple[int, int | None], int, tuple[int, ...]]] = {
    "ioctl": ((16, 29), 1, (0x5401, 0x5450, 0x5451)),  # is it a terminal; close on exec
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 1030)),  # F_DUPFD, GETFD, SETFD, GETFL, F_DUPFD_CLOEXEC
}
# Allowed where no bit of these is set in the flags; O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND.
WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000
OPEN: dict[str, tuple[tuple[int, int | None], int]] = {"open": ((2, None), 1), "openat": ((257, 56), 2)}

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column in the tables above, and the kernel's AUDIT_ARCH."""

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # the last is EPERM
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def seccomp_filter(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter`."""
    column, audit = ARCHITECTURES[machine]
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    for numbers in ALLOWED.values():
        if (number := numbers[column]) is not None:
            program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for numbers, argument, values in FOR_VALUES.values():
        if (number := numbers[column]) is not None:
            checks = [step for value in values for step in ((EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]
            # the number, its argument, the checks, refusal
            program += [(EQUAL, 0, len(checks) + 2, number), (LOAD, 0, 0, ARGUMENTS + 8 * argument)]
            program += [*checks, (RETURN, 0, 0, REFUSE)]
    for numbers, argument in OPEN.values():
        if (number := numbers[column]) is not None:
            program += [(EQUAL, 0, 4, number), (LOAD, 0, 0, ARGUMENTS + 8 * argument)]
            program += [(ANY_BIT, 0, 1, WRITING), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    program.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("HBBI", *step) for step in program)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def confine(memory: int, seconds: int, output: int) -> None:
    """Apply the limits and the filter to this process, irrevocably.

    Raises:
        OSError: the system cannot do it.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        raise OSError(f"{sys.platform} on {machine} cannot filter system calls")
    import resource  # not on Windows

    limits = {"AS": memory, "FSIZE": output, "CORE": 0, "NOFILE": 64, "STACK": 64 << 20}
    for name, limit in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    steps = seccomp_filter(machine)
    libc = ctypes.CDLL(None, use_errno=True)
    filter_program = _FilterProgram(len(steps) // 8, steps)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    for call in ((no_new_privileges, 1, 0, 0, 0), (set_seccomp, mode_filter, ctypes.byref(filter_program), 0, 0)):
        if libc.prctl(*(ctypes.c_ulong(value) if isinstance(value, int) else value for value in call)):
            raise OSError(ctypes.get_errno(), "the kernel refuses to filter system calls (prctl)")


def main() -> None:
    """Confine this process, and run the program."""
    path, memory, seconds, output = sys.argv[1], *map(int, sys.argv[2:])
    secret = sys.stdin.readline()
    with open(path, encoding="utf-8") as file:
        source = file.read()
    try:
        confine(memory, seconds, output)
    except (OSError, ValueError) as error:
        print(error, flush=True)
        os._exit(CANNOT_CONFINE)
    program = types.ModuleType("program")
    sys.modules["program"] = program  # dataclasses look their module up
    sys.argv = [path]
    try:
        exec(compile(source, path, "exec"), program.__dict__)
        sys.stdout.flush()
        os.write(1, secret.encode())
    except BaseException as error:
        os.write(1, f"\n{type(error).__name__}: {error}"[:500].encode("utf-8", "replace"))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
