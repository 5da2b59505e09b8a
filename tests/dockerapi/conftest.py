"""A server on a unix socket, with an engine in memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from engine_in_memory import EngineInMemory
from wire_client import World

from dockerapi.app import APIServer


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops: their transports differ at the edges (half-close, pausing, hang-up)."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "api.sock")
    async with asyncio.TaskGroup() as group:
        engine = EngineInMemory()
        server = APIServer(engine, group, server_version="28.5.2")
        listener = await loop.create_unix_server(server, path)
        world = World(path, engine, server)
        yield world
        await world.close()
        engine.containers.gate.set()
        listener.close()
        await server.shutdown(5)
        await listener.wait_closed()
