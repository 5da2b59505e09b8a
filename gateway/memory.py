"""What keeps an idle gateway small: options of the interpreter and of malloc, and modules that wait until they are used.

Figures are in docs/decisions/0008.  Nothing here changes what the gateway does.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from imgsources import pages

_WHILE_IMPORTING = {
    # aiohttp reads all certificate authorities, 2 MB for contexts that nobody here uses: the registry
    # client has a context of its own, made when a registry first needs it.
    "SSL_CERT_FILE": os.devnull,
    "SSL_CERT_DIR": os.devnull,
    # Its compiled module is the only one that needs libstdc++, 1 MB; a list of signals is short.
    "FROZENLIST_NO_EXTENSIONS": "1",
    # pydantic looks for plugins in the metadata of all packages that are installed.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
_LATER = ("zipfile", "idna", "tarfile", "mimetypes")
"""Imported for what an idle gateway does not do: packages in zip files, names of hosts beyond ASCII, `docker load`."""


def start_lean() -> None:
    """Start over without docstrings and columns of tracebacks.

    An interpreter takes these options only at its start.  Nothing here may rely on `assert`.  Where
    compiled modules are not kept, compiling them all would make every start take seconds: then not.
    """
    compiled = Path(importlib.util.cache_from_source(__file__, optimization="2"))
    kept = not sys.dont_write_bytecode and os.access(compiled.parent, os.W_OK)
    if sys.flags.optimize < 2 and (compiled.exists() or kept):
        with contextlib.suppress(OSError):  # an interpreter that only root may start
            os.execv(  # noqa: S606  # this very program again
                sys.executable,
                [sys.executable, "-OO", "-X", "no_debug_ranges", *sys.orig_argv[1:]],
            )


def tune_malloc() -> None:
    """Memory goes back to the machine when it is free.

    One arena for all threads: glibc's one per thread cost 12 MB of an idle gateway's 60.  Large
    blocks are mapped one by one: glibc by itself puts them on the heap after the first, and a pull left
    40 MB there.
    """
    if sys.platform != "linux":
        return  # another libc's mallopt knows other numbers
    arena_max = -8
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(arena_max, 1)
    pages.lean()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around the imports of everything: libraries leave out what nobody here uses."""
    before = {name: os.environ.get(name) for name in _WHILE_IMPORTING}
    os.environ.update(_WHILE_IMPORTING)
    for name in _LATER:
        _import_later(name)
    _forget_entities()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Waiting(ModuleType):
    """A module that is executed when something of it is first asked for.

    importlib's LazyLoader does so already at the second `import` of it.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # what import itself looks for
        with _executing:
            if type(self) is Waiting and self.__spec__ is not None and self.__spec__.loader:
                if name in self.__dict__:
                    return self.__dict__[name]  # another thread was first
                if self.__dict__.get("_is_begun"):
                    raise AttributeError(name)  # the module's own look at itself, half way
                self.__dict__["_is_begun"] = True
                self.__spec__.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
        return getattr(self, name)


_executing = threading.RLock()


def _import_later(name: str) -> None:
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = Waiting
    sys.modules[name] = module


def _forget_entities() -> None:
    """aiohttp escapes texts by `html`, which reads the 2,231 names of HTML's characters to do the contrary."""
    from html import entities  # noqa: PLC0415

    entities.html5.clear()
