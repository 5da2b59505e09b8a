"""Sockets are bound with the right owner and mode, and never where anybody could become root."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter
from gateway.listeners import is_tcp, open_listeners


def listeners(*hosts: str, group: str = "0", with_tls: bool = False) -> list[socket.socket]:
    return open_listeners(hosts, group=group, with_tls=with_tls, environment={})


def test_a_unix_socket_is_for_root_and_the_group_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "z.sock"
    (listener,) = listeners(f"unix://{path}", group="12345")
    with listener:
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert (found.st_uid, found.st_gid) == (0, 12345)
        assert not is_tcp(listener)


def test_a_missing_group_docker_falls_back_to_root_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "z.sock"
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)  # a machine without the group docker
    (listener,) = listeners(f"unix://{path}", group="docker")
    with listener:
        assert path.stat().st_gid == 0
    assert "group docker not found" in caplog.text


def test_a_group_that_was_asked_for_and_is_missing_keeps_it_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    with pytest.raises(InvalidParameter, match="group no-such-group not found"):
        listeners(f"unix://{path}", group="no-such-group")
    assert not path.exists()


def test_a_socket_left_by_a_killed_gateway_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    listeners(f"unix://{path}")[0].close()
    with listeners(f"unix://{path}")[0]:
        assert path.is_socket()


def test_a_socket_that_somebody_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "z.sock"
    with listeners(f"unix://{path}")[0], pytest.raises(InvalidParameter, match="is in use"):
        listeners(f"unix://{path}")


@pytest.mark.parametrize("host", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:2375"])
def test_tcp_without_tls_is_refused_off_the_loopback(host: str) -> None:
    with pytest.raises(InvalidParameter, match="without TLS"):
        listeners(host)


def test_tcp_on_the_loopback_is_served() -> None:
    (listener,) = listeners("tcp://127.0.0.1:0")
    with listener:
        assert is_tcp(listener)
        assert listener.getsockname()[0] == "127.0.0.1"


def test_tcp_with_tls_may_be_anywhere() -> None:
    (listener,) = listeners("tcp://0.0.0.0:0", with_tls=True)
    listener.close()


@pytest.mark.parametrize(
    "host",
    [
        "zonegate.sock",
        "http://x:1",
        "unix://relative",
        "unix:///proc/no/z.sock",
        "unix:///etc/passwd",
        f"unix:///tmp/{'long' * 50}",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:65536",
        "fd://",
    ],
)
def test_what_cannot_be_served_is_refused(host: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        listeners(host)
    assert "None" not in refused.value.message


def test_nonsense_from_the_activating_program_is_refused() -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}
    with pytest.raises(InvalidParameter, match="no sockets found"):
        open_listeners(["fd://"], group="0", with_tls=False, environment=environment)


def test_sockets_opened_before_a_bad_one_are_closed(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(InvalidParameter):
        listeners(f"unix://{tmp_path}/z.sock", "http://x")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert not list(tmp_path.iterdir())
