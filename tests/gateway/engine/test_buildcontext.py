"""Files of a build's context: found by path, told by a hash, written as another tar."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter
from gateway.engine import buildcopy
from gateway.engine.buildcontext import Entry, Missing, Tree, _pattern, archive, digest

Content = bytes | str | None
Make = Callable[..., Tree]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Make]:
    """Makes trees of (name, content): bytes are a file, `-> x` a symlink, `= x` a hard link, None a directory."""
    with contextlib.ExitStack() as stack:

        def make(*entries: tuple[str, Content], mtime: int = 0) -> Tree:
            path = tmp_path / "context"
            with tarfile.open(path, "w") as tar:
                for name, content in entries:
                    info = tarfile.TarInfo(name)
                    info.mtime = mtime
                    if content is None:
                        info.type = tarfile.DIRTYPE
                    elif isinstance(content, str):
                        info.type = tarfile.SYMTYPE if content[0] == "-" else tarfile.LNKTYPE
                        info.linkname = content.split(" ", 1)[1]
                    else:
                        info.size = len(content)
                    tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
            return stack.enter_context(contextlib.closing(Tree(path)))

        yield make


async def written(entries: list[Entry]) -> dict[str, tarfile.TarInfo]:
    data = b"".join([block async for block in archive(entries, (5, 6))])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def test_links_lead_nowhere_but_into_the_context(tree: Make) -> None:
    found = tree(
        ("d/f", b"1"),
        ("up", "-> ../../../d"),
        ("absolute", "-> /d/f"),
        ("loop", "-> loop"),
        ("etc", "-> /etc/passwd"),
    )
    assert found.resolve("up/f") == "d/f"
    assert found.resolve("/absolute") == "d/f"
    assert found.resolve("../../d") == "d"
    for name in ("loop", "etc", "nothing"):
        with pytest.raises(Missing):
            found.resolve(name)


def test_a_hash_is_of_names_and_contents_not_of_times(tree: Make) -> None:
    def told(*entries: tuple[str, Content], mtime: int = 0) -> str:
        context = tree(*entries, mtime=mtime)
        return buildcopy.told(buildcopy.find(context, ".", is_context=True))

    base = told(("a", b"1"), ("d/", None))
    assert told(("a", b"1"), ("d/", None), mtime=9) == base
    assert told(("a", b"2"), ("d/", None)) != base
    assert told(("b", b"1"), ("d/", None)) != base
    assert base.startswith("dir:")


async def test_a_hard_link_is_written_with_its_bytes(tree: Make) -> None:
    context = tree(("a", b"12345"), ("b", "= a"))
    found = buildcopy.find(context, "b", is_context=True)
    entries = buildcopy.laid_out(found, "/x", buildcopy.Place("/", ("x",)))
    (member,) = (await written(entries)).values()
    assert (member.name, member.size, member.uid, member.gid) == ("x", 5, 5, 6)
    assert digest(entries)


async def test_missing_directories_are_made_on_the_way(tree: Make) -> None:
    context = tree(("a", b"1"), ("s/b", b"2"))
    sources = [
        *buildcopy.find(context, "a", is_context=True),
        *buildcopy.find(context, "s", is_context=True),
    ]
    entries = buildcopy.laid_out(sources, "/n/m/", buildcopy.Place("/", ("n", "m")))
    assert list(await written(entries)) == ["n", "n/m", "n/m/a", "n/m/b"]


@pytest.mark.parametrize("source", ["..", "../x", "/../x", "a/../../x"])
def test_a_source_outside_is_refused_or_stays_inside(tree: Make, source: str) -> None:
    context = tree(("a", b"1"))
    with pytest.raises(InvalidParameter):
        buildcopy.find(context, source, is_context=True)


def test_what_is_no_tar_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"no tar" * 1000)
    with pytest.raises(InvalidParameter, match="Error processing tar file"):
        Tree(path)


@given(
    st.text("ab/.*?", min_size=1, max_size=6).filter(lambda text: "**" not in text),
    st.text("ab/.", min_size=1, max_size=6),
)
def test_stars_stop_at_slashes_and_nothing_else_is_special(glob: str, name: str) -> None:
    parts = zip(glob.split("/"), name.split("/"), strict=False)
    expected = glob.count("/") == name.count("/") and all(
        re.fullmatch(fnmatch.translate(pattern), part) for pattern, part in parts
    )
    assert bool(_pattern(glob).fullmatch(name)) is expected
