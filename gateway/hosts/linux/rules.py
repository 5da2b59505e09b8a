"""The packet rules of one instance as they are to be, and the kernel brought to that: element by element, or all anew.

What a rule says is nft.py's, how elements get to the kernel nfnetlink.py's.  Blocking; for the networks' worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from dockerapi.errors import CommandFailed
from gateway.hosts.linux import nft
from gateway.hosts.linux.nfnetlink import Element, FilterSocket

log = logging.getLogger(__name__)

_GONE_AT_ONCE = 16

Way = nft.Redirect | nft.Opening
"""To a port of a zone."""


class Rules:
    """Networks, senders and ways to ports of an instance.  `context` stays the caller's to close."""

    def __init__(self, context: nft.Nft, name: str) -> None:
        """In the network namespace of the calling thread."""
        self._context = context
        self._socket = FilterSocket()
        self._name = name
        self._networks: dict[str, nft.BridgedNetwork] = {}
        self._senders: dict[str, nft.Sender] = {}
        self._redirects: dict[Way, None] = {}
        self._gone: list[nft.Sender] = []
        self.guards = True
        """Whether zones are kept from sending by others' addresses: a kernel may lack rules for bridges."""

    def close(self) -> None:
        """Let go of the kernel; rules stay."""
        self._socket.close()

    def make(self) -> None:
        """All of it in one transaction."""
        try:
            self._run_all()
        except CommandFailed as error:
            if not self.guards:
                raise
            self.guards = False
            self._run_all()
            log.warning("zones are not kept from sending by others' addresses: %s", error.message)
        finally:
            self._context.close()

    def _run_all(self) -> None:
        self._gone = []
        elements = chain(
            chain.from_iterable(
                nft.network_elements(self._name, one) for one in self._networks.values()
            ),
            self._leading(self._redirects),
            self._sending(self._senders.values()),
        )
        self._context.run(nft.ruleset(self._name, elements, guards=self.guards))

    def make_if_missing(self) -> None:
        """One that is there serves live zones until they are taken over."""
        try:
            self._context.run(f"list chain inet {nft.table_of(self._name)} forward")
            if self.guards:
                self._context.run(f"list chain bridge {nft.table_of(self._name)} senders")
        except CommandFailed:
            self.make()
        finally:
            self._context.close()

    def remove(self) -> None:
        """Nothing of it is in the kernel."""
        try:
            self._context.run(nft.delete_table(self._name, guards=self.guards))
        except CommandFailed as error:
            log.warning("rules of %s are left: %s", self._name, error.message)

    def know_network(self, network: nft.BridgedNetwork) -> None:
        """For the next `make`."""
        self._networks[network.bridge] = network

    def add_network(self, network: nft.BridgedNetwork) -> None:
        """Its packets pass."""
        self._networks[network.bridge] = network
        self._change(new=nft.network_elements(self._name, network))

    def remove_network(self, bridge: str) -> None:
        """None is fine."""
        network = self._networks.pop(bridge, None)
        if network is not None:
            self._change(gone=nft.network_elements(self._name, network))

    def know_senders(self, senders: Iterable[nft.Sender]) -> None:
        """For the next `make`."""
        self._senders |= {sender.port: sender for sender in senders}

    def add_senders(self, senders: Sequence[nft.Sender]) -> None:
        """They may send as themselves only."""
        self.know_senders(senders)
        gone, self._gone = self._gone, []
        self._change(self._sending(gone), self._sending(senders))

    def remove_senders(self, ports: Iterable[str]) -> None:
        """Their ports are gone, or go; unknown ones are fine.

        Names of ports are drawn anew each time, so that elements of some that are gone do no harm: they go with the
        next change, several at once, by `tidy` at the latest.
        """
        self._gone += [sender for port in ports if (sender := self._senders.pop(port, None))]
        if len(self._gone) >= _GONE_AT_ONCE:
            self.tidy()

    def tidy(self) -> None:
        """Nothing is left of senders that were removed."""
        gone, self._gone = self._gone, []
        self._change(gone=self._sending(gone))

    def _sending(self, senders: Iterable[nft.Sender]) -> Iterator[Element]:
        if self.guards:
            for sender in senders:
                yield from nft.sender_elements(self._name, sender)

    def know_redirects(self, redirects: Iterable[Way]) -> None:
        """For the next `make`."""
        self._redirects |= dict.fromkeys(redirects)

    def add_redirects(self, redirects: Sequence[Way]) -> None:
        """Ports lead there."""
        self.know_redirects(redirects)
        self._change(new=self._leading(redirects))

    def remove_redirects(self, redirects: Sequence[Way]) -> None:
        """They lead nowhere any more; unknown ones are fine."""
        known = [one for one in redirects if one in self._redirects]
        for one in known:
            del self._redirects[one]
        self._change(gone=self._leading(known))

    def _leading(self, redirects: Iterable[Way]) -> Iterator[Element]:
        for one in redirects:
            if isinstance(one, nft.Opening):
                yield nft.opening_element(self._name, one)
            else:
                yield nft.redirect_element(self._name, one)

    def _change(self, gone: Iterable[Element] = (), new: Iterable[Element] = ()) -> None:
        gone, new = tuple(gone), tuple(new)
        if not gone and not new:
            return
        try:
            self._socket.change(gone, new)
        except OSError as error:
            # A restart of the machine's firewall flushes everybody's tables: ours is known to the last element.
            log.warning("rules of %s were changed by somebody, made anew: %s", self._name, error)
            self.make()
