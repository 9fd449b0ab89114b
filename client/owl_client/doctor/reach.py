"""Whether the server can be reached: proxies, the name, the port, and whom TLS trusts."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Generator, Iterator
from contextlib import suppress
from urllib.request import getproxies_environment, proxy_bypass

from owl_client.doctor.asking import ANSWER_S, Address, NoConnectionError, Reply, without_trust
from owl_client.doctor.clock import skew_s, skewed
from owl_client.doctor.finding import Case, Finding

DEFAULT_PORT = 8000
"""On which a server listens where its configuration says nothing."""

_NO_WAY = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES))
"""Errors of connecting that the network gives, or this machine, and no server."""

_CERTIFICATE_EXPIRED, _NOT_YET_VALID, _HOST_MISMATCH = 10, 9, (62, 64)
"""OpenSSL's numbers (x509_vfy.h)."""


def proxies(address: Address) -> Iterator[Finding]:
    """Variables that send others through a proxy. Our client connects directly, whatever they say."""
    found = getproxies_environment()
    proxy = found.get(address.scheme) or found.get("all")
    if not proxy:
        return
    name = f"{address.scheme}_proxy" if address.scheme in found else "all_proxy"
    if proxy_bypass(address.host) or proxy_bypass(address.place):
        yield Finding("proxy", "ok", f"{name} is set, and no_proxy leaves out {address.host}")
    elif address.is_loopback:
        yield Finding(
            "proxy",
            "fault",
            f"{name} is set, and {address.host} is this machine, which no proxy can reach: owl-stream connects "
            f"directly all the same, but curl, health checks and browsers started here do not",
            f"set no_proxy={','.join(dict.fromkeys(('localhost', '127.0.0.1', '::1', address.host)))} (and NO_PROXY, "
            f"which some programs read), or unset {name}",
        )
    else:
        yield Finding(
            "proxy",
            "note",
            f"{name} is set: owl-stream connects to {address.host} directly, and uses no proxy",
            f"add {address.host} to no_proxy, so that other programs do the same",
        )


def reach(case: Case, address: Address) -> Generator[Finding, None, Reply | None]:
    """Connect, shake hands and ask how the server is; its answer, or None where there is none."""
    context = case.tls.context() if address.scheme == "https" else None
    try:
        reply = address.ask("/health", context)
    except socket.gaierror as exc:
        yield Finding("name", "fault", f"{address.host} cannot be looked up: {exc.strerror}", "check the name, and DNS")
    except ssl.SSLError as exc:
        yield from _no_trust(address, context, exc)
    except NoConnectionError as exc:
        yield Finding(
            "reach",
            "fault",
            f"{address.place} does not answer: {exc}",
            "look for a firewall or security group between, and whether the host is up",
        )
    except TimeoutError:
        yield Finding(
            "reach",
            "fault",
            f"{address.place} takes connections and then says nothing for {ANSWER_S:g} s",
            "look at the server: is it an owl-stream server, does it hang, and does a proxy in front of it?",
        )
    except ConnectionRefusedError:
        yield _refused(address)
    except (OSError, http.client.HTTPException) as exc:
        yield _no_answer(address, exc)
    else:
        yield Finding("reach", "ok", f"connected to {address.place} in {reply.connect_s * 1e3:.1f} ms")
        if context is not None:
            yield Finding("tls", "ok", "the server's certificate is trusted")
        return reply
    return None


def _refused(address: Address) -> Finding:
    said = f"nothing listens at {address.place}"
    remedy = "start the server there, or take the address that it prints when it starts"
    if address.port != DEFAULT_PORT:
        other = Address(address.scheme, address.host, DEFAULT_PORT, address.path)
        if _is_ours(other):
            return Finding("reach", "fault", said, f"an owl-stream server listens at {other}: use that address")
    return Finding("reach", "fault", said, remedy)


def _is_ours(address: Address) -> bool:
    context = ssl.create_default_context() if address.scheme == "https" else None
    try:
        content = address.ask("/livez", without_trust(context)).content
    except (OSError, http.client.HTTPException):
        return False
    return bool(content == {"status": "ok"})


def _no_answer(address: Address, exc: Exception) -> Finding:
    if isinstance(exc, OSError) and exc.errno in _NO_WAY:
        said = f"there is no way to {address.place}: {exc.strerror}"
        return Finding("reach", "fault", said, "check the address, and this machine's network, routes and IPv6")
    said = f"{address.place} accepts connections, but gives no answer: {type(exc).__name__}: {exc}"
    if address.scheme == "http" and address.speaks_tls:
        other = Address("https", address.host, address.port, address.path)
        return Finding("tls", "fault", f"{address.place} speaks TLS", f"use {other}")
    return Finding("reach", "fault", said, "check host and port: is it an owl-stream server, and nothing in between?")


def _no_trust(address: Address, context: ssl.SSLContext | None, exc: ssl.SSLError) -> Iterator[Finding]:
    """Why TLS failed. The same server is asked without trust and without a token, for its clock."""
    if exc.reason == "WRONG_VERSION_NUMBER":
        plain = Address("http", address.host, address.port, address.path)
        yield Finding("tls", "fault", f"{address.place} does not speak TLS", f"use {plain}")
        return
    if not isinstance(exc, ssl.SSLCertVerificationError):
        remedy = "the server may ask for a certificate of yours: give --cert and --key, which its authority has signed"
        yield Finding("tls", "fault", f"no TLS with {address.place}: {exc.reason or exc}", remedy)
        return
    skew = None
    with suppress(OSError, http.client.HTTPException):
        skew = skew_s(address.ask("/livez", without_trust(context)))
    dated = exc.verify_code in {_CERTIFICATE_EXPIRED, _NOT_YET_VALID}
    if skew is not None and (apart := skewed(skew)) is not None:
        yield apart
    why = exc.verify_message or str(exc)
    if dated:
        remedy = "renew the server's certificate, if both clocks are right"
    elif exc.verify_code in _HOST_MISMATCH:
        remedy = f"use a name that the certificate has, or make one that has {address.host}"
    else:
        remedy = "give the authority that signed it: --ca FILE here, tls=Tls(ca=FILE) in the trainer"
    yield Finding("tls", "fault", f"the certificate of {address.place} is refused: {why}", remedy)
