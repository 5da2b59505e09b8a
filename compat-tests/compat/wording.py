"""What an older docker CLI says itself, in the words of the recorded one.

The answers were recorded with a CLI 28; Debian 12 has 20.10, which shows the same server in other words: it ends errors with
a dot, hides the server's text of a 404 behind its own, and writes IPv6 addresses bare.
"""

from __future__ import annotations

import functools
import re
import subprocess

NEW_WORDS = 23
"""Of the CLI, by and large; 21 and 22 never were."""
_RUN_HINT = "\n\nRun 'docker run --help' for more information\n"
_RULES = [
    (re.compile(pattern, re.MULTILINE), words)
    for pattern, words in [
        (r'^time="TIME" level=error msg="error waiting for container: context canceled"\n', ""),
        (r"^(docker: .*?)\.*\n(?:See 'docker run --help'\.\n)?", rf"\1{_RUN_HINT}"),
        (r"^Error: No such image: ([^:\s]+(?::\d+)?(?:/[^:\s]+)*)$", r"Error: No such image: \1:latest"),
        (r"^Error: (?=No such (?:image|container): )", "Error response from daemon: "),
        (r"(?<= -> ):::", "[::]:"),
    ]
]  # fmt: skip


@functools.cache
def major(path: str) -> int:
    """Of `docker` on this PATH: 20 for 20.10.24."""
    shown = subprocess.run(
        ["docker", "--version"], capture_output=True, check=True, env={"PATH": path}
    )
    found = re.search(rb"version (\d+)", shown.stdout)
    assert found, shown.stdout
    return int(found[1])


def of_today(text: str, version: int) -> str:
    """Normalised output of a CLI of this major version, as 28 would have it."""
    if version < NEW_WORDS:
        for pattern, words in _RULES:
            text = pattern.sub(words, text)
    return text


def without_dot(text: str) -> str:
    """An expected answer without the dot that the server's text ended with: `of_today` cannot know of it."""
    return text.replace(f".{_RUN_HINT}", _RUN_HINT)
