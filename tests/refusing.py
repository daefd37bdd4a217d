#!/usr/bin/env python3
"""A command whose kernel refuses it some system calls, as the seccomp filters of containers do.

tests/refusing.py perf_event_open=EPERM process_vm_readv=ENOSYS -- COMMAND...
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"perf_event_open": 298, "process_vm_readv": 310},
    "aarch64": {"perf_event_open": 241, "process_vm_readv": 270},
}
# linux/prctl.h, linux/seccomp.h and linux/bpf_common.h.
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
MODE_FILTER = 2
ALLOW, REFUSE = 0x7FFF_0000, 0x0005_0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT = 0


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def program(refused: dict[str, int]) -> bytes:
    """Classic BPF: each call that is refused is followed by its answer, all others come to the end."""

    def instruction(code: int, value: int, skip_unless: int = 0) -> bytes:
        return struct.pack("=HBBI", code, 0, skip_unless, value)

    numbers = NUMBERS[platform.machine()]
    parts = [instruction(LOAD_WORD, NUMBER_AT)]
    for call, error in refused.items():
        parts += [instruction(JUMP_IF_EQUAL, numbers[call], skip_unless=1), instruction(RETURN, REFUSE | error)]
    return b"".join([*parts, instruction(RETURN, ALLOW)])


def main() -> None:
    split = sys.argv.index("--")
    pairs = (argument.split("=") for argument in sys.argv[1:split])
    code = program({call: getattr(errno, error) for call, error in pairs})
    filtered = Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    # Without it only root may set a filter.
    for option, *arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(filtered))):
        if libc.prctl(option, *arguments, 0, 0) != 0:
            sys.exit(f"prctl({option}): {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
