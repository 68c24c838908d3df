"""The system calls that a decoder process may make: none that reaches a file, a socket or another process.

libseccomp does the work (its C interface, by ctypes). What is not on the list fails with EPERM instead of killing the
process: libraries ask the system harmless things now and then, and all of them live with a refusal.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

LIBRARY = "libseccomp.so.2"
ACT_ALLOW = 0x7FFF0000  # seccomp.h: SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(x) = 0x00050000 | x
ACT_ERRNO = 0x00050000
UNKNOWN = -1  # seccomp.h: __NR_SCMP_ERROR
COMPARE_MASKED_EQUAL = 7  # seccomp.h: SCMP_CMP_MASKED_EQ
PROT_EXEC = 0x4
# A thread and nothing else: CLONE_THREAD and CLONE_VM set, and none of the CLONE_NEW* that make a namespace.
CLONE_THREAD, CLONE_VM, CLONE_NEW = 0x00010000, 0x00000100, 0x7E020080

ALLOWED = (
    "read write readv writev pread64 lseek close "  # descriptors that are open already
    "brk munmap mremap madvise "
    "futex set_robust_list rseq sched_yield sched_getaffinity gettid getpid restart_syscall exit exit_group "
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack setitimer "
    "clock_gettime clock_nanosleep nanosleep gettimeofday getrusage getrandom"
).split()


class SandboxUnavailable(Exception):
    """This system cannot confine a process; the message says why."""


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp: compares ``argument & mask`` with ``value``."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


class Sandbox:
    """The filter, made once; ``enter`` puts the calling process under it for the rest of its life.

    Raises:
        SandboxUnavailable: there is no libseccomp, or the kernel has no filters.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailable(f"{sys.platform} has no seccomp")
        try:
            self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError:
            raise SandboxUnavailable(f"{LIBRARY} is not installed") from None
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        self._filter = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(ACT_ERRNO | errno.EPERM)))
        if not self._filter:
            raise SandboxUnavailable("the kernel has no system call filters")
        for name in ALLOWED:
            self._rule(ACT_ALLOW, name)
        for name in ("mmap", "mprotect"):
            self._rule(ACT_ALLOW, name, _Compare(2, COMPARE_MASKED_EQUAL, PROT_EXEC, 0))
        thread = CLONE_THREAD | CLONE_VM
        self._rule(ACT_ALLOW, "clone", _Compare(0, COMPARE_MASKED_EQUAL, thread | CLONE_NEW, thread))
        self._rule(ACT_ERRNO | errno.ENOSYS, "clone3")  # its flags cannot be seen: the C library falls back to clone

    def enter(self) -> None:
        """Set no_new_privs and load the filter. All that is still to be imported or opened must be by now.

        Raises:
            SandboxUnavailable: the kernel refuses it.
        """
        status = self._library.seccomp_load(self._filter)
        if status:
            raise SandboxUnavailable(f"the kernel refuses the system call filter: {os.strerror(-status)}")

    def _rule(self, action: int, name: str, *comparisons: _Compare) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            raise SandboxUnavailable(f"{LIBRARY} is too old: it does not know {name}; version 2.5 does")
        status = self._library.seccomp_rule_add_array(
            self._filter,
            ctypes.c_uint32(action),
            ctypes.c_int(number),
            ctypes.c_uint(len(comparisons)),
            (_Compare * len(comparisons))(*comparisons),
        )
        if status:
            raise SandboxUnavailable(f"libseccomp refuses the rule for {name}: {os.strerror(-status)}")
