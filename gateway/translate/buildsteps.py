"""What one instruction of a build makes of the Config so far, and how the history tells of it.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import JSONObject
from gateway.translate import changes
from gateway.translate.dockerfile import Instruction, json_list, pairs
from gateway.translate.words import expanded

# What must be alike for a step to be the one that was built before.
_COMPARED = (
    "AttachStderr",
    "AttachStdout",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "OpenStdin",
    "Shell",
    "StopSignal",
    "Tty",
    "User",
    "Volumes",
    "WorkingDir",
)


def shell(config: Mapping[str, Any]) -> list[str]:
    """What the shell form of RUN is run by."""
    return list(config.get("Shell") or changes.SHELL)


def command(config: Mapping[str, Any], instruction: Instruction) -> list[str]:
    """What RUN runs."""
    argv = json_list(instruction.rest)
    return [*shell(config), instruction.rest] if argv is None else argv


def nop(config: Mapping[str, Any], comment: str) -> list[str]:
    """The command of a container that is never run: what the history shows of a step that runs nothing."""
    return [*shell(config), "#(nop) ", comment]


def comment(before: Mapping[str, Any], after: Mapping[str, Any], instruction: Instruction) -> str:
    """The words of the history for an instruction that changes the Config alone, as dockerd writes them."""
    name = instruction.name.upper()
    match name:
        case "ENV":
            fresh = [entry for entry in after["Env"] if entry not in (before.get("Env") or [])]
            names = [key for key, _ in pairs(name, instruction.rest)]
            told = [e for e in after["Env"] if e.partition("=")[0] in names]
            return f"ENV {' '.join(told or fresh)}"
        case "LABEL":
            keys = [key for key, _ in pairs(name, instruction.rest)]
            labels = after["Labels"]
            told = [f"{key}={labels[key]}" for key in map(_bare, keys) if key in labels]
            return f"LABEL {' '.join(told)}"
        case "CMD" | "ENTRYPOINT":
            found = after["Cmd" if name == "CMD" else "Entrypoint"] or []
            return f"{name} [{' '.join(_go_quoted(word) for word in found)}]"
        case "VOLUME":
            fresh = sorted(set(after["Volumes"]) - set(before.get("Volumes") or {}))
            return f"VOLUME [{' '.join(fresh or sorted(after['Volumes']))}]"
        case "SHELL":
            return f"SHELL [{' '.join(after['Shell'])}]"
        case "USER":
            return f"USER {after['User']}"
        case "STOPSIGNAL":
            return f"STOPSIGNAL {after['StopSignal']}"
        case "EXPOSE":
            return f"EXPOSE {instruction.rest}"
        case "ONBUILD":
            return f"ONBUILD {after['OnBuild'][-1]}"
    return f"{name} {instruction.rest}"


def _bare(key: str) -> str:
    return expanded(key, {})


def _go_quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def set_shell(config: JSONObject, instruction: Instruction) -> None:
    """SHELL; its form was checked."""
    config["Shell"] = json_list(instruction.rest)


def owner(text: str, passwd: str | None, group: str | None) -> tuple[int, int]:
    """`--chown=user[:group]` in numbers, by the files of the image.  InvalidParameter in dockerd's words."""
    user, _, own_group = text.partition(":")
    uid = _number(user, passwd, "uid", "user")
    return uid, _number(own_group or user, group, "gid", "group") if own_group else _own(
        user, uid, group
    )


def _own(user: str, uid: int, group: str | None) -> int:
    """Without a group the user's number, or the number of the group of its name."""
    if user.isdigit():
        return uid
    return _number(user, group, "gid", "group")


def _number(name: str, file: str | None, kind: str, noun: str) -> int:
    if name.isdigit():
        return int(name)
    for line in (file or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdigit():
            return int(fields[2])
    raise InvalidParameter(
        "unable to convert uid/gid chown string to host mapping: "
        f"can't find {kind} for {noun} {name}: no such {noun}: {name}"
    )


def comparable(config: Mapping[str, Any]) -> JSONObject:
    """What two Configs are compared by; empty and absent are the same."""
    return {key: value for key in _COMPARED if (value := config.get(key))}
