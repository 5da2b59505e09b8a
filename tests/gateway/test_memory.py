"""What keeps an idle gateway small, without weighing it: what is imported, and how `serve` is run."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - an interpreter that has imported nothing yet
import sys
from pathlib import Path

import pytest

from gateway import memory

ROOT = Path(__file__).resolve().parents[2]
NEVER = {
    "aiohttp.web",  # routing, static files
    "cryptography",  # tests make certificates with it, TLS is ssl's
    "dateutil",
    "frozenlist._frozenlist",  # libstdc++ for a list of signals
    "gateway.doctor",
    "gateway.preview",
    "gateway.translate.run_arguments",
    "hypothesis",
    "idna",
    "isal",  # the next few come with the first layer
    "tarfile",
    "zipfile",
    "zstandard",
}


def _run(*words: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_server_imports_nothing_that_only_others_or_later_requests_need() -> None:
    code = """
import sys
from types import ModuleType
from gateway import memory
with memory.importing():
    import gateway.server, gateway.hosts.linux.host
print(*(name for name, module in sys.modules.items() if not isinstance(module, memory.Waiting)))
"""
    assert not NEVER & set(_run("-c", code).split())


def test_a_module_that_waits_is_there_when_something_of_it_is_asked_for() -> None:
    code = """
from gateway import memory
with memory.importing():
    import tarfile
print(isinstance(tarfile, memory.Waiting), tarfile.__name__)
print(issubclass(tarfile.ReadError, tarfile.TarError), isinstance(tarfile, memory.Waiting))
from tarfile import TarFile
print(hasattr(tarfile, "nothing"), TarFile is tarfile.open.__self__)
"""
    words = _run("-c", code).split()
    assert words == ["True", "tarfile", "True", "False", "False", "True"]


def test_the_environment_is_as_before_after_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    before = dict(os.environ)
    with memory.importing():
        assert os.environ["SSL_CERT_FILE"] == os.environ["SSL_CERT_DIR"] == os.devnull
    assert dict(os.environ) == before


def test_serve_starts_over_with_less_in_its_interpreter(tmp_path: Path) -> None:
    code = """
import os, sys
from gateway import cli
os.execv = lambda program, words: sys.exit(print(*words[1:5]))
sys.argv[1:] = ["serve", "--debug"]
cli.main()
"""
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    words = _run("-c", code, **compiled).split()
    assert words == ["-OO", "-X", "no_debug_ranges", "-c"]


def test_serve_stays_as_it_is_where_compiled_modules_are_not_kept(tmp_path: Path) -> None:
    code = """
import os
from gateway import memory
os.execv = lambda *_: 1 / 0
memory.start_lean()
print("stayed")
"""
    never = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert _run("-c", code, **never) == "stayed\n"
