"""`docker run -it`, `exec -it` and `attach` on a real terminal."""

from __future__ import annotations

from compat.clients import CLI


def test_a_shell_on_a_terminal(cli: CLI) -> None:
    with cli.terminal("run --rm -it bb sh") as terminal:
        terminal.until("# ")
        terminal.type("stty size\n")
        terminal.until("30 100")
        terminal.size(44, 111)
        terminal.type("sleep 0.2; stty size; test -t 0 && echo a terminal\n")
        terminal.until("44 111")
        terminal.until("a terminal\r\n")
        terminal.type("exit 6\n")
        assert terminal.end() == 6


def test_ctrl_c_reaches_the_process(cli: CLI) -> None:
    with cli.terminal(
        "run --rm -it bb sh -c \"trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done\""
    ) as terminal:
        terminal.until("ready")
        terminal.type(b"\x03")
        terminal.until("caught")
        assert terminal.end() == 9


def test_exec_on_a_terminal(cli: CLI) -> None:
    cli.ok("run -d --name c1 bb sleep 1000")
    with cli.terminal("exec -it c1 sh") as terminal:
        terminal.until("# ")
        terminal.type("stty size; exit 3\n")
        terminal.until("30 100")
        assert terminal.end() == 3


def test_detaching_leaves_it_running_and_attach_comes_back(cli: CLI) -> None:
    with cli.terminal("run -it --name c1 bb sh") as terminal:
        terminal.until("# ")
        terminal.type("x=kept\n")
        terminal.until("# ")
        terminal.type(b"\x10\x11")
        assert terminal.end() == 0
    assert cli.ok("inspect -f '{{.State.Running}}' c1") == "true"
    with cli.terminal("attach c1") as terminal:
        terminal.type("echo is $x\n")
        terminal.until("is kept")
        terminal.type("exit 5\n")
        assert terminal.end() == 5


def test_detach_keys_of_ones_own(cli: CLI) -> None:
    with cli.terminal("run -it --detach-keys ctrl-x,y --name c1 bb sh") as terminal:
        terminal.until("# ")
        terminal.type(b"\x10\x11")
        terminal.type("echo $((40+2))\n")
        terminal.until("42")
        terminal.type(b"\x18y")
        assert terminal.end() == 0
    assert cli.ok("inspect -f '{{.State.Running}}' c1") == "true"
    with cli.terminal("exec -it --detach-keys ctrl-x c1 sh") as terminal:
        terminal.until("# ")
        terminal.type(b"\x18")
        terminal.end()
    assert cli.ok("inspect -f '{{.State.Running}}' c1") == "true"


def test_start_on_a_terminal(cli: CLI) -> None:
    cli.ok("create -it --name c1 bb sh")
    with cli.terminal("start -ai c1") as terminal:
        terminal.until("# ")
        terminal.type("exit 2\n")
        assert terminal.end() == 2


def test_the_log_of_a_terminal_keeps_its_line_ends(cli: CLI) -> None:
    with cli.terminal("run -it --name c1 bb echo shown") as terminal:
        terminal.until("shown\r\n")
        assert terminal.end() == 0
    assert cli("logs c1").stdout == "shown\r\n"


def test_a_terminal_is_refused_without_one(cli: CLI) -> None:
    result = cli("run --rm -it bb true")
    assert result.exit == 1
    assert "input device is not a TTY" in result.stderr
