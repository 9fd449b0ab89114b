"""TLS: what uvicorn is told of it, checked before it listens, and a deadline for the handshake."""

from __future__ import annotations

import ssl
from typing import Any

import uvloop

from owl_stream.config import Config
from owl_stream.errors import ConfigError

HANDSHAKE_TIMEOUT_S = 10.0
"""A connection counts as one only after its handshake: until then nothing but this and the kernel bounds it."""


class ServerLoop(uvloop.Loop):
    """uvloop, but a TLS handshake has a deadline, as a request has. uvicorn has no setting for it."""

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncio's own."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = HANDSHAKE_TIMEOUT_S
        return await super().create_server(*args, **kwargs)


def tls_options(config: Config) -> dict[str, Any]:
    """uvicorn's settings for TLS; with a client CA, a connection without a certificate of it gets no answer at all.

    Raises:
        ConfigError: a file cannot be read, is no PEM, or key and certificate do not belong together.
    """
    tls = config.server.tls
    if tls.certificate is None or tls.key is None:
        return {}
    certificate, key = config.base / tls.certificate, config.base / tls.key
    client_ca = None if tls.client_ca is None else config.base / tls.client_ca
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=_no_passphrase)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        files = ", ".join(str(path) for path in (certificate, key, client_ca) if path is not None)
        raise ConfigError(f"server.tls: {reason}; see {files}") from exc
    options: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": key}
    if client_ca is not None:
        options |= {"ssl_ca_certs": str(client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted: expected one without a passphrase")
