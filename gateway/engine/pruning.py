"""What the filters of `docker ... prune` leave to be removed.  Pure but for the guard against a second prune."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from dockerapi.errors import Conflict, InvalidParameter
from dockerapi.filters import Filters
from gateway.engine.image_shapes import until_ns


class PruneTests:
    """`label`, `label!` and `until` of a prune.  InvalidParameter for what cannot be meant."""

    def __init__(self, filters: Filters, now_ns: int) -> None:
        self._filters = filters
        texts = filters.get("until")
        if len(texts) > 1:
            raise InvalidParameter("more than one until filter specified")
        try:
            self._until = until_ns(texts[0], now_ns) if texts else None
        except InvalidParameter as error:
            raise InvalidParameter(
                f'failed to parse value as time or duration: "{texts[0]}"'
            ) from error

    def hold(self, labels: Mapping[str, str] | None, created_ns: int) -> bool:
        """Whether it may go."""
        filters = self._filters
        found = labels or {}
        return (
            (self._until is None or created_ns <= self._until)
            and filters.match_labels(found)
            and not ("label!" in filters and filters.match_labels(found, "label!"))
        )


class OneAtATime:
    """As dockerd has it: who prunes while another does is refused."""

    def __init__(self) -> None:
        self._is_running = False

    @contextlib.contextmanager
    def prune(self) -> Iterator[None]:
        """Conflict if another block is open."""
        if self._is_running:
            raise Conflict("a prune operation is already running")
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False
