"""How long one connection may take: to be made, for each read, and for all reads of one thing together.

A timeout of a socket bounds the silence between two bytes. A peer that sends a byte now and then never lets it pass, so
every read here also looks at a deadline.
"""

from __future__ import annotations

import io
import socket
import ssl
import struct

from owl_client.deadline import Deadline

LEAST_S, MOST_S = 0.001, 86_400.0
"""Bounds of the timeout that a socket is given. 0 would be none to `SO_RCVTIMEO` and non-blocking to `settimeout`."""
ROUNDING_S = 0.005
"""The kernel counts in ticks, and may wake a reader up to a tick early: it must find the deadline passed."""
ADDRESS_S = 0.25
"""The least time for one of many addresses, if so much is left."""


class LateError(TimeoutError):
    """Time is up; the text says what was expected and what came instead."""


class Waits:
    """Sets how long the next read of a socket may wait: at most `each_s`, and not beyond the deadline."""

    def __init__(self, sock: socket.socket, each_s: float, deadline: Deadline) -> None:
        self._sock, self._each_s, self._deadline = sock, each_s, deadline
        self._end, self._what, self._got = deadline, "", 0
        self._told_s, self._in_kernel = -1.0, False

    def expect(self, what: str, seconds: float) -> None:
        """Have all of `what` come within `seconds` from now."""
        self._end, self._what, self._got = self._deadline.within(seconds), what, 0

    def expect_stream(self) -> None:
        """Let the reads take as long as the deadline allows, which moves with every batch."""
        self._end, self._what = self._deadline, ""

    def wait_in_kernel(self) -> None:
        """Let the kernel wait and not Python, which would make the socket non-blocking: MSG_WAITALL needs that."""
        self._sock.settimeout(None)
        self._told_s, self._in_kernel = -1.0, True

    def before_read(self) -> None:
        """Tell the socket how long it may wait now.

        Raises:
            TimeoutError: time is up.
        """
        wait_s = min(self._each_s, self._end.left_s)
        if wait_s <= 0:
            raise self.late()
        if wait_s != self._told_s:
            self._told_s = wait_s
            self._tell(min(max(wait_s, LEAST_S), MOST_S) + ROUNDING_S)

    def came(self, nbytes: int) -> None:
        """Count what was read."""
        self._got += nbytes

    def late(self) -> TimeoutError:
        """The error of a read that began too late or ran out of time."""
        if not self._what or not self._got:
            return TimeoutError()
        return LateError(f"expected {self._what} within {self._end.seconds:.3g} s, got only {self._got} bytes of it")

    def _tell(self, seconds: float) -> None:
        if self._in_kernel:
            whole = int(seconds)
            value = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        else:
            self._sock.settimeout(seconds)


class TimedFile(io.RawIOBase):
    """A socket's file, every read of which has to keep to `waits`."""

    def __init__(self, raw: io.RawIOBase, waits: Waits) -> None:
        self._raw, self._waits = raw, waits

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: memoryview, /) -> int | None:  # type: ignore[override] # BufferedReader passes no other
        """Read what is there, waiting for it as long as `waits` allows.

        Raises:
            TimeoutError: nothing came, or not enough, and time is up.
        """
        self._waits.before_read()
        try:
            got: int | None = self._raw.readinto(buffer)
        except TimeoutError:
            raise self._waits.late() from None
        self._waits.came(got or 0)
        return got

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


def connect(host: str, port: int, deadline: Deadline, context: ssl.SSLContext | None) -> socket.socket:
    """A connection to the first of a host's addresses that answers, with TLS where there is a `context`.

    All of it ends at the deadline: an address that does not answer gets its part of the time, so the next is asked too.
    Only looking the name up is the system's, which has its own timeouts.

    Raises:
        OSError: no address answers, or TLS is refused.
        LateError: time is up.
    """
    sock = _connect_tcp(host, port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return sock
        sock.settimeout(min(max(deadline.left_s, LEAST_S), MOST_S))
        return context.wrap_socket(sock, server_hostname=host)
    except TimeoutError:
        sock.close()
        raise LateError(f"no TLS handshake within {deadline.seconds:.3g} s") from None
    except BaseException:
        sock.close()
        raise


def _connect_tcp(host: str, port: int, deadline: Deadline) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError = LateError(f"no connection within {deadline.seconds:.3g} s")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        left_s = deadline.left_s
        if left_s <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(max(left_s / (len(addresses) - tried), min(left_s, ADDRESS_S), LEAST_S), MOST_S))
            sock.connect(address)
        except TimeoutError:
            sock.close()
        except OSError as exc:
            sock.close()
            error = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error
