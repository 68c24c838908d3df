"""The sockets between rank 0 and the others: orders one way, reports the other."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from workers.engine.wire import Unpacker, pack
from workers.parallel.orders import AnyOrder, Broken, Encoded, Order, Report

_READ_BYTES = 1 << 18
_BUFFER_BYTES = 1 << 20


class RankLost(Exception):
    """A rank is gone, and with it its share of the model and of all that was remembered."""


class Links:
    """Rank 0's ends, in the order of the ranks from 1 on. Sending waits where a rank is far behind."""

    def __init__(self, peers: Sequence[socket.socket]) -> None:
        self.peers = tuple(peers)
        self._unpackers: list[Unpacker[Report]] = [Unpacker(msgspec.msgpack.Decoder(Report)) for _ in self.peers]
        self._heard: list[deque[Report]] = [deque() for _ in self.peers]
        for peer in self.peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def send(self, order: Order) -> None:
        """An order for every rank. RankLost if one is gone."""
        data = pack(order)
        for rank, peer in enumerate(self.peers, start=1):
            try:
                peer.sendall(data)
            except OSError as error:
                raise RankLost(self.last_words(rank) or f"rank {rank} takes no orders: {error}") from error

    def encoded(self) -> list[Encoded]:
        """Waits for the next report of every rank. RankLost if one will not come."""
        return [self._report(rank) for rank in range(1, len(self.peers) + 1)]

    def last_words(self, rank: int) -> str:
        """Why a rank that is gone has ended, as far as it said so."""
        self.peers[rank - 1].setblocking(False)
        try:
            while self._listen(rank):
                pass
        except OSError:
            pass
        broken = (report for report in self._heard[rank - 1] if isinstance(report, Broken))
        return "".join(f"rank {rank}: {report.message}" for report in broken)

    def _report(self, rank: int) -> Encoded:
        heard = self._heard[rank - 1]
        try:
            while not heard:
                if not self._listen(rank):
                    raise RankLost(f"rank {rank} has closed its socket")
        except OSError as error:
            raise RankLost(f"rank {rank} reports no more: {error}") from error
        report = heard.popleft()
        if isinstance(report, Broken):
            raise RankLost(f"rank {rank}: {report.message}")
        return report

    def _listen(self, rank: int) -> bool:
        """Waits for something to come from a rank; False at the end of it."""
        data = self.peers[rank - 1].recv(_READ_BYTES)
        self._heard[rank - 1].extend(self._unpackers[rank - 1].feed(data))
        return bool(data)


class Link:
    """The end of a rank that is led."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def orders(self) -> Iterator[AnyOrder]:
        """Orders as they come, until rank 0 closes its end or is gone."""
        unpacker: Unpacker[AnyOrder] = Unpacker(msgspec.msgpack.Decoder(AnyOrder))
        while data := self._received():
            yield from unpacker.feed(data)

    def report(self, report: Report) -> None:
        """Says something to rank 0, if that is still there: if not, orders end too."""
        try:
            self._peer.sendall(pack(report))
        except OSError:
            return

    def _received(self) -> bytes:
        try:
            return self._peer.recv(_READ_BYTES)
        except OSError:
            return b""
