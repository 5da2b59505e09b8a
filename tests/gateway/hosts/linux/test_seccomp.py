import base64
import json
import os
import sys

import pytest

from dockerapi.errors import InvalidParameter
from gateway.hosts.command import run
from gateway.hosts.linux import seccomp
from gateway.hosts.linux.machine import CAPABILITIES

KERNEL = (6, 1)
DOCKER_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)
EPERM, ENOSYS, EFAULT, ESRCH = 1, 38, 14, 3
NOBODY = 0x7FFFFFFF  # no process has this number

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")

# Runs in a process of its own under the filter and says the errno of each call.
CHILD = """
import base64, ctypes, json, struct, sys
request = json.load(sys.stdin)
program = base64.b64decode(request["program"])
calls = request["calls"]
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(program, len(program))
header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, header, 0, 0) == 0
answers = []
for call in calls:
    ctypes.set_errno(0)
    libc.syscall(*[ctypes.c_long(argument) for argument in call])
    answers.append(ctypes.get_errno())
print(json.dumps(answers))
"""


async def errnos(program: bytes, *calls: tuple[int, ...]) -> list[int]:
    request = {"program": base64.b64encode(program).decode(), "calls": calls}
    output = await run(
        [sys.executable, "-c", CHILD], timeout_s=20, stdin=json.dumps(request).encode()
    )
    return list(json.loads(output))


def default_program(capabilities: frozenset[str] = DOCKER_CAPABILITIES) -> bytes:
    return seccomp.compile_bpf(seccomp.profile_of("default"), capabilities, KERNEL)


async def test_the_default_profile_refuses_what_a_zone_must_not_call():
    forbidden = {
        "mount": (165, 0, 0, 0, 0, 0),
        "unshare": (272, 0),
        "keyctl": (250, 0, 0, 0),
        "add_key": (248, 0, 0, 0, 0),
        "bpf": (321, 0, 0, 0),
        "io_uring_setup": (425, 0, 0),
        "open_by_handle_at": (304, -1, 0, 0),
        "reboot": (169, 0, 0, 0),
        "kexec_load": (246, 0, 0, 0, 0),
        "userfaultfd": (323, 0),
        "setns": (308, -1, 0),
        "pivot_root": (155, 0, 0),
        "init_module": (175, 0, 0, 0),
        "settimeofday": (164, 0, 0),
        "socket(AF_VSOCK)": (41, 40, 1, 0),
        "personality(READ_IMPLIES_EXEC)": (135, 0x0400000),
        "clone(NEWUSER)": (56, 0x10000000, 0, 0, 0, 0),
        "set_mempolicy": (238, 0, 0, 0),
        "perf_event_open": (298, 0, 0, -1, -1, 0),
    }
    answers = await errnos(default_program(), *forbidden.values())
    assert dict(zip(forbidden, answers, strict=True)) == dict.fromkeys(forbidden, EPERM)


async def test_the_default_profile_lets_the_rest_through():
    allowed = {
        "getpid": ((39,), 0),
        "socket(AF_INET)": ((41, 2, 1, 0), 0),
        "socket(AF_UNIX)": ((41, 1, 1, 0), 0),
        "personality(query)": ((135, 0xFFFFFFFF), 0),
        "ptrace": ((101, 16, NOBODY, 0, 0), ESRCH),
        "chroot of nothing": ((161, 0), EFAULT),
        "statx of nothing": ((332, -1, 0, 0, 0, 0), EFAULT),
    }
    answers = await errnos(default_program(), *(call for call, _ in allowed.values()))
    assert dict(zip(allowed, answers, strict=True)) == {
        n: errno for n, (_, errno) in allowed.items()
    }


async def test_calls_newer_than_the_profile_do_not_exist():
    assert await errnos(default_program(), (435, 0, 0), (500,), (1000,)) == [ENOSYS] * 3


async def test_a_capability_opens_its_calls():
    admin = default_program(DOCKER_CAPABILITIES | {"CAP_SYS_ADMIN"})
    # clone3 without arguments fails in the kernel, no longer in the filter.
    unshare, mount, clone3 = await errnos(admin, (272, 0), (165, 0, 0, 0, 0, 0), (435, 0, 0))
    assert unshare == 0
    assert mount not in (EPERM, ENOSYS)
    assert clone3 not in (EPERM, ENOSYS)
    assert await errnos(default_program(frozenset()), (161, 0)) == [EPERM]


def test_capabilities_that_the_profile_does_not_mention_share_one_filter():
    profile = seccomp.profile_of("default")
    one = seccomp.encoded_bpf(profile, frozenset({"CAP_CHOWN"}), KERNEL)
    assert seccomp.encoded_bpf(profile, frozenset({"CAP_KILL"}), KERNEL) is one
    assert seccomp.encoded_bpf(profile, frozenset(CAPABILITIES), KERNEL) != one


def test_the_json_form_has_the_rules_that_count_here():
    body = seccomp.oci_seccomp(seccomp.profile_of("default"), DOCKER_CAPABILITIES, KERNEL)
    assert body["defaultAction"] == "SCMP_ACT_ERRNO"
    assert body["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    names = {name for rule in body["syscalls"] for name in rule["names"]}
    assert {"read", "clone", "chroot", "arch_prctl", "ptrace"} <= names
    assert not names & {"mount", "bpf", "cacheflush"}


USER_PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [
        {"name": "mkdirat", "action": "SCMP_ACT_ERRNO", "errnoRet": 99},
        {"names": ["mkdir", "notacall"], "action": "SCMP_ACT_ERRNO"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 77,
            "args": [
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 5},
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 6},
            ],
        },
    ],
}


async def test_a_profile_of_the_users_works_in_both_forms():
    profile = seccomp.profile_of(json.dumps(USER_PROFILE))
    assert profile.compilable
    program = seccomp.compile_bpf(profile, frozenset(), KERNEL)
    calls = ((258, -1, 0, 0), (83, 0, 0), (135, 5), (135, 6), (1000,))
    assert await errnos(program, *calls) == [99, EPERM, 77, 77, ENOSYS]
    body = seccomp.oci_seccomp(profile, frozenset(), KERNEL)
    assert body["syscalls"][0] == {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}


def test_what_a_program_cannot_carry_is_left_to_the_json_form():
    body = USER_PROFILE | {"flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    profile = seccomp.profile_of(json.dumps(body))
    assert not profile.compilable
    assert seccomp.oci_seccomp(profile, frozenset(), KERNEL)["flags"] == ["SECCOMP_FILTER_FLAG_LOG"]


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        '{"defaultAction":"SCMP_ACT_NOTHING"}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"]}]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_KILL"}]}',
        '{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}',
    ],
)
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(InvalidParameter, match="Decoding seccomp profile failed"):
        seccomp.profile_of(text)
