"""What stands between a client and a server in a test: lets packets vanish, and answers Kafka's requests with errors.

All addresses that a broker gives of itself are changed to this one, so that a client stays on it.
"""

import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any


class Between:
    """Listens on `port` of loopback and passes everything on to the server's port, until it is told otherwise."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lets_pass = threading.Event()
        self._lets_pass.set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextmanager
    def swallowing(self) -> Iterator[None]:
        """Whatever either side sends meanwhile is gone, and neither hears of it. What was connected then stays dead."""
        self._lets_pass.clear()
        try:
            yield
        finally:
            before, self._open = self._open, []
            self._lets_pass.set()
            for one in before:
                _end(one)

    def close(self) -> None:
        self._listener.close()
        for one in self._open:
            _end(one)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._open += [client, server]
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """One connection to its end."""
        ways = [threading.Thread(target=way, daemon=True) for way in self._ways(client, server)]
        for way in ways:
            way.start()
        for way in ways:
            way.join()
        for one in (client, server):
            with suppress(ValueError):
                self._open.remove(one)
            one.close()

    def _ways(self, client: socket.socket, server: socket.socket) -> Sequence[Callable[[], None]]:
        return partial(self._pass, client, server), partial(self._pass, server, client)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self._lets_pass.is_set():
                    sink.sendall(data)
        _end(source)
        _end(sink)


class BetweenKafka(Between):
    """One that reads Kafka's frames. wrong: error codes by API key, one for each of the next answers, which says of all
    it is about that it failed, although it was done; lasting: one code by API key, and for how many seconds from the
    first such answer. depth: in how many lists the code stands in an answer of an API (0: it is of the answer as a
    whole); the innermost code else. An answer that has no code there stays as it is. given: how many answers of each
    API were changed."""

    PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 0, 1, 2, 3, 8, 9
    FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, SYNC_GROUP, INIT_PRODUCER_ID = 10, 11, 12, 14, 22

    def __init__(self, server: int) -> None:
        super().__init__(server)
        self.wrong: dict[int, list[int]] = {}
        self.lasting: dict[int, tuple[int, float]] = {}
        self._until: dict[int, float] = {}
        self.depth = {self.FETCH: 2}  # of its partitions
        self.asked: dict[int, int] = {}
        self.given: dict[int, int] = {}

    def _ways(self, client: socket.socket, server: socket.socket) -> Sequence[Callable[[], None]]:
        requests: list[tuple[int, int]] = []
        return partial(self._ask, client, server, requests), partial(self._answer, server, client, requests)

    def _ask(self, client: socket.socket, server: socket.socket, requests: list[tuple[int, int]]) -> None:
        for frame in _frames(client):
            key, version = struct.unpack(">hh", frame[4:8])
            if self._lets_pass.is_set():
                self.asked[key] = self.asked.get(key, 0) + 1
                requests.append((key, version))
                with suppress(OSError):
                    server.sendall(frame)
        _end(server)

    def _answer(self, server: socket.socket, client: socket.socket, requests: list[tuple[int, int]]) -> None:
        ours, theirs = (b"127.0.0.1" + struct.pack(">i", port) for port in (self.port, self._server))
        for frame in _frames(server):
            key, version = requests.pop(0)
            answer = frame.replace(theirs, ours)
            if key in self.wrong or key in self.lasting:
                answer = self._changed(key, version, answer)
            if self._lets_pass.is_set():
                with suppress(OSError):
                    client.sendall(answer)
        _end(client)

    def _changed(self, key: int, version: int, answer: bytes) -> bytes:
        once = self.wrong.get(key)
        if not once and (key not in self.lasting or time.monotonic() > self._until.get(key, math.inf)):
            return answer
        code, seconds = (once[0], 0.0) if once else self.lasting[key]
        failing = _failing(key, version, answer, code, self.depth.get(key))
        if failing is None:
            return answer
        self.given[key] = self.given.get(key, 0) + 1
        if once:
            once.pop(0)
        else:
            self._until.setdefault(key, time.monotonic() + seconds)
        return failing

    def lasts(self, key: int) -> bool:
        """Whether `lasting` goes on for an API."""
        return key in self.lasting and time.monotonic() <= self._until.get(key, math.inf)

    def right(self) -> None:
        """All answers pass as they are from now on."""
        self.wrong.clear()
        self.lasting.clear()
        self._until.clear()


def _failing(key: int, version: int, frame: bytes, code: int, depth: int | None) -> bytes | None:
    """The answer with this error; None where it has no place for it."""
    from kafka.protocol.api_header import RequestHeader

    asked = RequestHeader(request_api_key=key, request_api_version=version, correlation_id=0, client_id="")
    answer = asked.get_response_class().decode(frame, framed=True, header=True)
    if not _fail(answer, version, code, depth):
        return None
    answer._version = version
    return bytes(answer.encode(framed=True, header=True))


def _fail(part: Any, version: int, code: int, depth: int | None) -> bool:
    """Whether there was a place for the code."""
    below = False
    if depth != 0:
        for name in part.fields:
            for one in getattr(part, name) if isinstance(getattr(part, name), list) else ():
                if hasattr(one, "fields"):
                    below |= _fail(one, version, code, None if depth is None else depth - 1)
    has = "error_code" in part.fields and part.fields["error_code"].for_version_q(version)
    if below or not has or depth not in (0, None):
        return below
    part.error_code = code
    return True


def _frames(source: socket.socket) -> Iterator[bytes]:
    """Whole frames with their length, until the end."""
    got = b""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            got += data
            while len(got) >= 4 and len(got) >= (end := 4 + struct.unpack(">i", got[:4])[0]):
                yield got[:end]
                got = got[end:]


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
