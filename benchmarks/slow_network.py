"""A slow network between clients and a server of this machine: latency, and one bandwidth that all connections share.

python benchmarks/slow_network.py 127.0.0.1:9000  # prints the address to connect to; ends when its stdin is closed
python benchmarks/slow_network.py 127.0.0.1:9000 --latency-ms 30 --gbits 1

A relay of TCP connections. It stands for ``tc netem``, which many kernels lack, and needs no rights. Bytes of one direction
pass through a link one after another, at its rate, whoever sent them; each direction takes half of the latency, and a new
connection a whole one more, for its handshake. It is kinder than a network in one thing: TCP would begin slowly on each
connection. Who does not read, or a link that is full, holds the other side back, as the window of TCP does.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import cast

import click

# What of one connection may be under way: enough for it to fill 1 Gbit/s for 30 ms alone.
_WINDOW_BYTES = 8 * 2**20
_CLOSED = b""


class Link:
    """One direction of the network."""

    def __init__(self, delay_s: float, bytes_a_second: float) -> None:
        self._delay_s = delay_s
        self._bytes_a_second = bytes_a_second
        self._free = 0.0

    def arrival(self, n_bytes: int, ready: float) -> float:
        """When bytes arrive that are ready at that time, behind all others of this direction."""
        self._free = max(ready, self._free) + n_bytes / self._bytes_a_second
        return self._free + self._delay_s


class End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at the ``other`` end, when it has passed the link."""

    def __init__(self, link: Link, ready: float) -> None:
        self._link = link
        self._ready = ready
        self._under_way: deque[bytes] = deque()
        self._n_bytes = 0
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.other: End

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._send(data)
        if self._n_bytes + self.other.transport.get_write_buffer_size() > _WINDOW_BYTES:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._send(_CLOSED)

    def resume_writing(self) -> None:
        self.other.read_on()

    def read_on(self) -> None:
        """Read again, if reading was held back and what is under way has become less."""
        if self._n_bytes + self.other.transport.get_write_buffer_size() <= _WINDOW_BYTES:
            self.transport.resume_reading()

    def _send(self, data: bytes) -> None:
        self._under_way.append(data)
        self._n_bytes += len(data)
        ready = max(self._ready, self._loop.time())
        self._loop.call_at(self._link.arrival(len(data), ready), self._arrive)

    def _arrive(self) -> None:
        data = self._under_way.popleft()
        self._n_bytes -= len(data)
        if self.other.transport.is_closing():
            return
        if data is _CLOSED:
            self.other.transport.close()
        else:
            self.other.transport.write(data)
            self.read_on()


async def relay(host: str, port: int, latency_s: float, bytes_a_second: float) -> None:
    """Relay connections to a server until stdin ends."""
    loop = asyncio.get_running_loop()
    up, down = (Link(latency_s / 2, bytes_a_second) for _ in range(2))
    opening: set[asyncio.Task[None]] = set()

    class Client(End):
        """The end of a client: its server's is opened when it comes, and what it says waits for the handshake."""

        def __init__(self) -> None:
            super().__init__(up, loop.time() + latency_s)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()
            task = loop.create_task(self._open())
            opening.add(task)
            task.add_done_callback(opening.discard)

        async def _open(self) -> None:
            try:
                _, self.other = await loop.create_connection(lambda: End(down, 0.0), host, port)
            except OSError:
                self.transport.abort()
                return
            self.other.other = self
            self.transport.resume_reading()

    server = await loop.create_server(Client, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


@contextmanager
def slow_network(server: str, latency_s: float, gbits: float) -> Iterator[tuple[str, int]]:
    """The address of a server behind a slow network, and the process that is the network."""
    options = [f"--latency-ms={latency_s * 1e3}", f"--gbits={gbits}"]
    process = Popen([sys.executable, __file__, server, *options], stdin=PIPE, stdout=PIPE, text=True, process_group=0)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.communicate()


@click.command()
@click.argument("server")
@click.option("--latency-ms", default=30.0, show_default=True, help="From a request to its answer.")
@click.option("--gbits", default=1.0, show_default=True, help="Gbit/s of each direction, for all connections together.")
def main(server: str, latency_ms: float, gbits: float) -> None:
    host, _, port = server.rpartition(":")
    asyncio.run(relay(host, int(port), latency_ms / 1e3, gbits * 1e9 / 8))


if __name__ == "__main__":
    main()
