"""A way to a database server that a test can cut at a COMMIT: just before the server gets it, or before its reply."""

import socket
import threading
import time
from contextlib import suppress

LATE = 0.4  # seconds: longer than it takes to try again


class Cutting:
    """Listens on `port` of loopback and passes everything on to the server's port."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut: str | None = None
        """What becomes of the next COMMIT: `request` (it does not arrive), `reply` (it does, nobody hears of it),
        `late` (it does when the client has tried again for a while)."""
        self.down = False
        """From the next cut on nobody gets through while this is set."""
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.down and self.cuts:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._server))
                threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if asks and self.cut and data[4:5] == b"\x03" and data.endswith(b"COMMIT"):
                    how, self.cut = self.cut, None
                    self.cuts += 1
                    if how != "request":
                        # The client goes first, so that no reply gets through.
                        source.shutdown(socket.SHUT_RDWR)
                        time.sleep(LATE if how == "late" else 0)
                        sink.sendall(data)
                        sink.settimeout(5)
                        with suppress(OSError):
                            sink.recv(1 << 16)
                    break
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
