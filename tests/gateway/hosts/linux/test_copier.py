"""What keeps an image's files from being more than files to the program that copies them."""

from __future__ import annotations

import subprocess  # noqa: TID251 - another interpreter, to be sealed
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
SEALED = """
import sys
sys.path.insert(0, sys.argv[1])
from gateway.hosts.linux import copier
copier._seal()
import os
from gateway.hosts.linux.tarout import TarWriter
tar = TarWriter(os.open("/dev/null", os.O_WRONLY))
tar.tree("/etc/passwd", b"passwd")
tar.close()
for name in ("http.client", "csv"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} was loaded")
"""


def test_nothing_is_loaded_once_the_root_is_the_images() -> None:
    argv = [sys.executable, "-I", "-S", "-c", SEALED, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
