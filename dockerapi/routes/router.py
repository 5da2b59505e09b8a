"""From method and path to a route: dict probes only, nothing is scanned."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote

from dockerapi.errors import APIError
from dockerapi.routes.base import Route


class MovedPermanently(APIError):
    """A path with `//` or dots: Go's mux sends the client to the clean one."""

    status = 301

    def __init__(self, location: str) -> None:
        super().__init__("Moved Permanently")
        self.location = location


def clean(raw_path: str, query: str) -> str:
    """The decoded path; MovedPermanently if it is not in its clean form."""
    path = unquote(raw_path) if "%" in raw_path else raw_path
    if "//" in path or "/." in path:
        tidy = posixpath.normpath(path)
        tidy = "/" + tidy.lstrip("/") + ("/" if path.endswith("/") and tidy.strip("/") else "")
        if tidy != path:
            raise MovedPermanently(quote(tidy, safe="/:@") + (f"?{query}" if query else ""))
    return path


class Router:
    """Routes by (method, path with the name as `*`)."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: dict[tuple[str, str], Route] = {}
        for route in routes:
            key = (route.method, _shape(route.path))
            if key in self._routes:
                raise ValueError(f"{route.method} {route.path} is routed twice")
            self._routes[key] = route

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def find(self, method: str, path: str) -> tuple[Route, str] | None:
        """The route and the name in the path, "" where it has none."""
        route = self._routes.get((method, path))
        if route is not None:
            return route, ""
        parts = path.split("/")
        # A name may hold slashes (images do), so what is fixed is at the ends.
        if two := self._with_two_names(method, parts):
            return two
        for behind in (2, 1, 0):
            if len(parts) < 3 + behind:
                continue
            name = "/".join(parts[2 : len(parts) - behind])
            shape = "/".join([*parts[:2], "*", *parts[len(parts) - behind :]])
            route = self._routes.get((method, shape))
            # `DELETE /containers/` is a container without a name, to be refused as such.
            if route is not None and (name or parts[1:] == ["containers", ""]):
                return route, name
        return None

    def _with_two_names(self, method: str, parts: list[str]) -> tuple[Route, str] | None:
        """`/containers/{id}/checkpoints/{checkpoint}` is the only one."""
        if len(parts) != 5:
            return None
        route = self._routes.get((method, "/".join([*parts[:2], "*", parts[3], "*"])))
        return (route, parts[2]) if route is not None else None


def _shape(path: str) -> str:
    return "/".join("*" if part.startswith("{") else part for part in path.split("/"))
