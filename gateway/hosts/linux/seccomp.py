"""Seccomp: a profile in docker's JSON -> what the runtime takes.

    profile_of    "default" or JSON text -> Profile
    encoded_bpf   compiled by libseccomp once per profile and capability set, for crun's annotation
    oci_seccomp   `linux.seccomp`, for runc and for what a compiled filter cannot carry

A rule counts if all its `includes` hold (capabilities, architecture, kernel) and none of its `excludes`.
Compiling takes 16 ms once; handing crun the JSON would cost 23 ms of CPU at every start.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dockerapi.errors import InvalidParameter, NotSupported
from gateway.hosts.linux.seccomp_profile import DEFAULT

ANNOTATION = "run.oci.seccomp_bpf_data"

_ENOSYS = 38
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_NOTIFY = "SCMP_ACT_NOTIFY"
_COMPARISONS = {
    f"SCMP_CMP_{name}": number
    for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)
}
# libseccomp's tokens are the kernel's AUDIT_ARCH numbers, x32's alone is made up.
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_S390": 0x00000016,
}
# uname -m -> the name in `arches`, the architecture.
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


@dataclass(frozen=True, slots=True)
class Argument:
    """A comparison of one argument of a call; `second` is the datum of MASKED_EQ."""

    index: int
    op: str
    value: int
    second: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """When a rule counts; empty parts say nothing."""

    capabilities: frozenset[str] = frozenset()
    architectures: frozenset[str] = frozenset()
    kernel: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens at some system calls; `errno` None = the action's own default."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    arguments: tuple[Argument, ...] = ()
    includes: Condition = Condition()
    excludes: Condition = Condition()


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole profile; `architectures` empty = this machine's own only."""

    default_action: str
    default_errno: int | None
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]
    flags: tuple[str, ...] = ()
    listener_path: str = ""

    @property
    def compilable(self) -> bool:
        """Whether a BPF program says all of it: flags and listeners go beside the program."""
        actions = {self.default_action, *(rule.action for rule in self.rules)}
        return not self.flags and not self.listener_path and _NOTIFY not in actions


@functools.lru_cache(maxsize=64)
def profile_of(text: str) -> Profile:
    """The built-in profile for "default" and "builtin", else the parsed JSON.

    InvalidParameter in dockerd's words if it is no profile.
    """
    if text in ("default", "builtin"):
        return _parse(DEFAULT)
    try:
        return _parse(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error


def encoded_bpf(profile: Profile, capabilities: frozenset[str], kernel: tuple[int, int]) -> str:
    """The filter as crun's annotation has it: base64 of struct sock_filter[]."""
    return _encoded(profile, capabilities & _mentioned(profile), kernel)


@functools.lru_cache(maxsize=64)
def _encoded(profile: Profile, capabilities: frozenset[str], kernel: tuple[int, int]) -> str:
    return base64.b64encode(compile_bpf(profile, capabilities, kernel)).decode()


def compile_bpf(profile: Profile, capabilities: frozenset[str], kernel: tuple[int, int]) -> bytes:
    """The program: ENOSYS for calls newer than the profile, then what libseccomp makes of the rules."""
    machine, native = _here()
    rules = flatten(profile, capabilities, machine, kernel)
    library = _library()
    context = library.seccomp_init(_action(profile.default_action, profile.default_errno))
    if not context:
        raise InvalidParameter(f"seccomp: invalid action {profile.default_action}")
    try:
        for name in profile.architectures:
            if name != native:
                library.seccomp_arch_add(context, ctypes.c_uint32(_ARCHITECTURES[name]))
        highest = 0
        default = (profile.default_action, profile.default_errno)
        for rule in rules:
            for number in map(_number, rule.names):
                highest = max(highest, number)
                # libseccomp refuses a rule that says what happens anyway.
                if number != _UNKNOWN and (rule.action, rule.errno) != default:
                    _add(context, rule, number)
        return _enosys_prefix(native, highest, profile) + _export(context)
    finally:
        library.seccomp_release(context)


def oci_seccomp(
    profile: Profile, capabilities: frozenset[str], kernel: tuple[int, int]
) -> dict[str, Any]:
    """`linux.seccomp` of config.json."""
    machine, native = _here()
    seccomp: dict[str, Any] = {
        "defaultAction": profile.default_action,
        "architectures": list(profile.architectures) or [native],
        "syscalls": [_oci_rule(r) for r in flatten(profile, capabilities, machine, kernel)],
    }
    if profile.default_errno is not None:
        seccomp["defaultErrnoRet"] = profile.default_errno
    if profile.flags:
        seccomp["flags"] = list(profile.flags)
    if profile.listener_path:
        seccomp["listenerPath"] = profile.listener_path
    return seccomp


def flatten(
    profile: Profile, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> list[Rule]:
    """The rules that count for these capabilities, this architecture (Go's name) and kernel."""
    return [
        rule
        for rule in profile.rules
        if _included(rule.includes, capabilities, machine, kernel)
        and not _excluded(rule.excludes, capabilities, machine, kernel)
    ]


def _included(
    wanted: Condition, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> bool:
    return (
        wanted.capabilities <= capabilities
        and (not wanted.architectures or machine in wanted.architectures)
        and (wanted.kernel is None or kernel >= wanted.kernel)
    )


def _excluded(
    unwanted: Condition, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> bool:
    return (
        bool(unwanted.capabilities & capabilities)
        or machine in unwanted.architectures
        or (unwanted.kernel is not None and kernel >= unwanted.kernel)
    )


@functools.lru_cache(maxsize=64)
def _mentioned(profile: Profile) -> frozenset[str]:
    """Capabilities that make a difference: others must not make a second copy of one filter."""
    conditions = [c for rule in profile.rules for c in (rule.includes, rule.excludes)]
    return frozenset[str]().union(*(c.capabilities for c in conditions))


# --- docker's JSON -----------------------------------------------------------------------------------


def _parse(body: dict[str, Any]) -> Profile:
    if body.get("architectures") and body.get("archMap"):
        raise ValueError("both 'architectures' and 'archMap' are specified in the seccomp profile")
    rules = tuple(_parse_rule(rule) for rule in body.get("syscalls") or ())
    default = str(body["defaultAction"])
    if default not in _ACTIONS and default != _NOTIFY:
        raise ValueError(f"invalid action {default}")
    return Profile(
        default_action=default,
        default_errno=body.get("defaultErrnoRet"),
        architectures=_parse_architectures(body),
        rules=rules,
        flags=tuple(body.get("flags") or ()),
        listener_path=str(body.get("listenerPath") or ""),
    )


def _parse_architectures(body: dict[str, Any]) -> tuple[str, ...]:
    listed = [str(name) for name in body.get("architectures") or ()]
    for entry in body.get("archMap") or ():
        if entry["architecture"] == _here()[1]:
            listed = [entry["architecture"], *(entry.get("subArchitectures") or ())]
    for name in listed:
        if name not in _ARCHITECTURES:
            raise ValueError(f"invalid architecture {name}")
    return tuple(listed)


def _parse_rule(body: dict[str, Any]) -> Rule:
    if body.get("name") and body.get("names"):
        raise ValueError(
            "'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'"
        )
    action = str(body["action"])
    if action not in _ACTIONS and action != _NOTIFY:
        raise ValueError(f"invalid action {action}")
    return Rule(
        names=(body["name"],) if body.get("name") else tuple(body["names"]),
        action=action,
        errno=body.get("errnoRet"),
        arguments=tuple(_parse_argument(argument) for argument in body.get("args") or ()),
        includes=_parse_condition(body.get("includes") or {}),
        excludes=_parse_condition(body.get("excludes") or {}),
    )


def _parse_argument(body: dict[str, Any]) -> Argument:
    if body["op"] not in _COMPARISONS:
        raise ValueError(f"invalid operator {body['op']}")
    return Argument(
        int(body["index"]), body["op"], int(body["value"]), int(body.get("valueTwo") or 0)
    )


def _parse_condition(body: dict[str, Any]) -> Condition:
    kernel = None
    if text := body.get("minKernel"):
        match = re.match(r"(\d+)\.(\d+)", text)
        if match is None:
            raise ValueError(f"invalid kernel version {text}")
        kernel = (int(match[1]), int(match[2]))
    return Condition(frozenset(body.get("caps") or ()), frozenset(body.get("arches") or ()), kernel)


def _oci_rule(rule: Rule) -> dict[str, Any]:
    body: dict[str, Any] = {"names": list(rule.names), "action": rule.action}
    if rule.errno is not None:
        body["errnoRet"] = rule.errno
    if rule.arguments:
        body["args"] = [
            {"index": a.index, "op": a.op, "value": a.value, "valueTwo": a.second}
            for a in rule.arguments
        ]
    return body


# --- libseccomp --------------------------------------------------------------------------------------


class _Comparison(ctypes.Structure):
    _fields_ = [  # type: ignore[mutable-override]
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


_UNKNOWN = -1  # __NR_SCMP_ERROR: a call newer than the library


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise NotSupported("seccomp: libseccomp.so.2 is not installed on this host") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


@functools.cache
def _number(name: str) -> int:
    return int(_library().seccomp_syscall_resolve_name(name.encode()))


def _here() -> tuple[str, str]:
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise NotSupported(f"seccomp: no filter is known for {machine}")
    return _MACHINES[machine]


def _action(name: str, errno: int | None) -> int:
    number = _ACTIONS[name]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return number | (1 if errno is None else errno)  # EPERM, as runc has it
    return number


def _add(context: int, rule: Rule, number: int) -> None:
    indexes = [argument.index for argument in rule.arguments]
    # Comparisons of different arguments must all hold; of the same argument any, as runc has it:
    # libseccomp takes one per argument and rule.
    if len(set(indexes)) == len(indexes):
        alternatives: list[Sequence[Argument]] = [rule.arguments]
    else:
        alternatives = [[argument] for argument in rule.arguments]
    action = _action(rule.action, rule.errno)
    for arguments in alternatives:
        array = (_Comparison * max(len(arguments), 1))(
            *(_Comparison(a.index, _COMPARISONS[a.op], a.value, a.second) for a in arguments)
        )
        result = _library().seccomp_rule_add_array(context, action, number, len(arguments), array)
        if result < 0:
            raise InvalidParameter(
                f"seccomp: rule for {', '.join(rule.names[:3])}: {os.strerror(-result)}"
            )


def _export(context: int) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        result = _library().seccomp_export_bpf(context, descriptor)
        if result < 0:
            raise InvalidParameter(f"seccomp: {os.strerror(-result)}")
        file.seek(0)
        return file.read()


def _enosys_prefix(native: str, highest: int, profile: Profile) -> bytes:
    """ENOSYS for calls above the profile's highest, as runc answers.

    With the default EPERM a libc that tries a call newer than the profile would not fall back.
    """
    if profile.default_action != "SCMP_ACT_ERRNO":
        return b""
    x32 = native == "SCMP_ARCH_X86_64"
    instructions = [
        (0x20, 0, 0, 4),  # ld arch
        (0x15, 0, 4 if x32 else 3, _ARCHITECTURES[native]),  # jeq native, else out
        (0x20, 0, 0, 0),  # ld number
        # Numbers of x32 start above; the rules know them.
        *([(0x35, 2, 0, 0x40000000)] if x32 else []),
        (0x25, 0, 1, highest),  # jgt highest, else out
        (0x06, 0, 0, _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
