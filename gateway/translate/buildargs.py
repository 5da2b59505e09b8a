"""`--build-arg` and ARG: which values a step of a build may name.  Pure.

ARG before FROM  -> names of base images; in a stage only where it says ARG again
ARG in a stage   -> from there on, unless ENV has the name
the proxies      -> in RUN without any ARG, and then not in the history
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.translate.words import expanded

_PREDEFINED = frozenset(
    name
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (proxy, proxy.lower())
)

Declared = Sequence[tuple[str, str | None]]


class BuildArguments:
    """The arguments of one build; `stage` begins the next stage."""

    def __init__(self, given: Mapping[str, str | None], metas: Declared) -> None:
        """`given` by the client, None: it names a variable that it does not have; `metas` of the ARGs before FROM."""
        self._given = {name: value for name, value in given.items() if value is not None}
        self._used: set[str] = set()
        self._metas: dict[str, str] = {}
        for name, default in metas:
            self._used.add(name)
            value = self._given.get(name)
            if value is None and default is not None:
                value = expanded(default, self._metas)
            if value is not None:
                self._metas[name] = value
        self._declared: dict[str, str | None] = {}

    @property
    def metas(self) -> Mapping[str, str]:
        """For the names of base images."""
        return self._metas

    def stage(self) -> None:
        """Forget what the last stage declared."""
        self._declared = {}

    def declare(self, name: str, default: str | None, env: Mapping[str, str]) -> str | None:
        """ARG in a stage; what its default is, expanded."""
        self._used.add(name)
        value = None if default is None else expanded(default, env)
        self._declared[name] = self._metas.get(name) if value is None else value
        return value

    def scope(self, env: Mapping[str, str]) -> dict[str, str]:
        """What words of an instruction may name: ENV, and the arguments that it does not hide."""
        return {**self._values(env), **env}

    def for_run(self, env: Mapping[str, str]) -> list[str]:
        """`NAME=value` for the environment of RUN, sorted."""
        return [f"{name}={value}" for name, value in sorted(self._values(env).items())]

    def for_history(self, env: Mapping[str, str]) -> list[str]:
        """What stands before the command of a RUN in the history, and makes it another one for the cache."""
        values = sorted(self._values(env).items())
        shown = [f"{name}={value}" for name, value in values if name in self._declared]
        return [f"|{len(shown)}", *shown] if values else []

    @property
    def unused(self) -> list[str]:
        """Given ones that no ARG asked for, sorted."""
        return sorted(set(self._given) - self._used - _PREDEFINED)

    def _values(self, env: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in {*self._declared, *(_PREDEFINED & set(self._given))}:
            value = self._given.get(name, self._declared.get(name))
            if value is not None and name not in env:
                found[name] = value
        return found
