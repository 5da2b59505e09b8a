"""What a layer takes away of the tree below it, and questions about that tree: one bash script on the far side.

Nothing here follows a link: a directory is entered component by component, and each must be a directory and
no link.  Which paths are meant, after all links, is decided in layers.py.  Names travel NUL-separated on
standard input, so any byte may be in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dockerapi.errors import APIError
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.layers import directory_in

_BATCH = 1 << 20
"""Bytes of names for one run of the script."""
_GROUP = 1000
_LINK_LIMIT = 45
_TIMEOUT_S = 600.0

# bash of every SmartOS platform (4.1 on).  `read -d ''` ends at a NUL; a name that begins with a dash or is
# CDPATH's cannot do harm behind "./".
_COMMON = r"""
LC_ALL=C; export LC_ALL; unset CDPATH; set -f
ROOT=$1
enter() {
  local rest=$1/ name
  cd -P "$ROOT" || exit 1
  while [[ -n $rest ]]; do
    name=${rest%%/*}; rest=${rest#*/}
    [[ -z $name ]] && continue
    [[ -d ./$name && ! -L ./$name ]] || return 1
    cd -P "./$name" || return 1
  done
}
"""

_LOOK = (
    _COMMON
    + r"""
last=none; inside=0
while IFS= read -r -d '' path; do
  parent=; [[ $path == */* ]] && parent=${path%/*}
  name=${path##*/}
  if [[ $parent != "$last" ]]; then
    last=$parent; inside=0; enter "$parent" && inside=1
  fi
  if ((! inside)); then printf -- '-\0'
  elif [[ -L ./$name ]]; then
    target=$(readlink "./$name"; printf x); printf 'l%s\0' "${target%$'\n'x}"
  elif [[ -d ./$name ]]; then printf 'd\0'
  elif [[ -e ./$name ]]; then printf 'f\0'
  else printf -- '-\0'
  fi
done
"""
)

_CLEAR = (
    _COMMON
    + r"""
gone=()
flush() {
  ((${#gone[@]})) || return 0
  rm -rf "${gone[@]}" || exit 1
  gone=()
}
# However many: in portions that a command line holds.
drop() { gone+=("./$1"); ((${#gone[@]} < 200)) || flush; }
inside=0
while IFS= read -r -d '' word; do
  name=${word:1}
  case $word in
    P*) flush; inside=0; enter "$name" && inside=1; continue ;;
  esac
  ((inside)) || continue
  case $word in
    w*) drop "$name" ;;
    n*) [[ -d ./$name && ! -L ./$name ]] && drop "$name" ;;
    d*) [[ ( -e ./$name || -L ./$name ) && ( ! -d ./$name || -L ./$name ) ]] && drop "$name" ;;
    o*) set +f; shopt -s dotglob nullglob
        for child in *; do drop "$child"; done
        shopt -u dotglob nullglob; set -f ;;
  esac
done
flush
exit 0
"""
)


async def look(gz: GlobalZone, root: str, paths: Iterable[bytes]) -> dict[bytes, bytes]:
    """What is at each path below `root`, links not followed: `layers.Lower`."""
    found: dict[bytes, bytes] = {}
    for batch in _batches(sorted(paths)):
        output = await gz.run(
            ["bash", "-c", _LOOK, "zonegate-look", root], timeout_s=_TIMEOUT_S, stdin=_words(batch)
        )
        answers = output.split(b"\0")[:-1]
        if len(answers) != len(batch):
            raise APIError(f"{root}: {len(batch)} paths asked for, {len(answers)} answers")
        found |= zip(batch, answers, strict=True)
    return found


async def find_directory(gz: GlobalZone, root: str, path: str) -> str | None:
    """Where `path` leads inside `root` as its zone would see it, from the root on; None if to no directory."""
    known: dict[bytes, bytes] = {}
    for _ in range(_LINK_LIMIT):
        facts = _Facts(known)
        place = directory_in(os.fsencode(path), facts.at)
        if not facts.unknown:
            return None if place is None else os.fsdecode(place)
        known |= await look(gz, root, facts.unknown)
    return None


class _Facts:
    """What is known of a tree.  What is not is taken for a directory, so that one question brings the whole way."""

    def __init__(self, known: Mapping[bytes, bytes]) -> None:
        self._known = known
        self.unknown: set[bytes] = set()

    def at(self, path: bytes) -> bytes:
        if path not in self._known:
            self.unknown.add(path)
        return self._known.get(path, b"d")


async def clear(
    gz: GlobalZone, root: str, removals: Mapping[bytes, Sequence[tuple[bytes, bytes]]]
) -> None:
    """Take away what a plan says, below `root` and nowhere else.  What is not there is fine."""
    for batch in _batches(_removal_words(removals)):
        await gz.run(
            ["bash", "-c", _CLEAR, "zonegate-clear", root],
            timeout_s=_TIMEOUT_S,
            stdin=_words(batch),
        )


def _removal_words(removals: Mapping[bytes, Sequence[tuple[bytes, bytes]]]) -> Iterator[bytes]:
    """Directories and what goes in each; said again every so often, since a batch may end anywhere."""
    for parent, names in removals.items():
        for at in range(0, len(names), _GROUP):
            group = [what + name + b"\0" for what, name in names[at : at + _GROUP]]
            yield b"P" + parent + b"\0" + b"".join(group)[:-1]


def _words(words: Iterable[bytes]) -> bytes:
    return b"".join(word + b"\0" for word in words)


def _batches(words: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for word in words:
        if batch and size + len(word) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(word)
        size += len(word) + 1
    if batch:
        yield batch
