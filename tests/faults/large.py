"""A dataset of frames of 14 MB and more with every poison picture among its samples, and how to reach its servers."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
import yaml

from tests.support.datasets import mixed_samples
from tests.support.http import Answer
from tests.support.layouts import OWL, settings_of
from tests.support.patience import PATIENCE_S
from tests.support.poison import poison_pictures
from tests.support.tars import Sample, chat, write_shard

FRAME_BYTES = 14 << 20
"""The least that a frame with pictures has: more than all buffers between a server and a reader hold."""
ROWS, SIDE = 16, 576
"""Where a step's rows have images, each has one of that side or more: 16 * 3 * 576 * 576 bytes. Videos have no less."""
PAGES = "pages"
"""A second dataset, whose samples are only looked at in pages."""


@dataclass(frozen=True)
class Address:
    """Where a server listens, whom to trust there and what to show; asks by plain sockets."""

    url: str
    ca: Path | None = None
    token: str = ""

    def connect(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        """A connection, behind its TLS handshake where the server speaks TLS."""
        parts = urlsplit(self.url)
        sock = socket.create_connection((parts.hostname or "", parts.port or 0), timeout_s)
        if self.ca is None:
            return sock
        try:
            return ssl.create_default_context(cafile=self.ca).wrap_socket(sock, server_hostname=parts.hostname)
        except BaseException:
            sock.close()
            raise

    def ask(self, sock: socket.socket, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a GET; the answer is the caller's to read, or not."""
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "x", **shown, **(headers or {})}.items())
        sock.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())

    def get(self, path: str, timeout_s: float = PATIENCE_S) -> Answer:
        """A whole answer.

        Raises:
            OSError: there was none in that time (TimeoutError), or the connection broke.
        """
        with self.connect(timeout_s) as sock:
            self.ask(sock, path, {"Connection": "close"})
            with http.client.HTTPResponse(sock) as response:
                response.begin()
                return Answer(response.status, dict(response.headers.items()), response.read())


def poison_samples() -> list[Sample]:
    """Each poison picture in a sample of its own, whose key has the picture's name."""
    return [
        (f"poison-{name.replace('.', '-')}", {"json": chat(("<|image|>What?", "A.")), name.rpartition(".")[2]: data})
        for name, data in poison_pictures().items()
    ]


def write_large(directory: Path, servers: Mapping[str, Mapping[str, Any]], layout: str = OWL) -> dict[str, Path]:
    """Write two datasets, `train` and `pages`, and a configuration for each server; returns where those are."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        write_shard(directory / f"train-{number:05d}.tar", mixed_samples(48, 48 * number, layout=layout))
        write_shard(directory / f"pages-{number:05d}.tar", mixed_samples(8, 1000 + 8 * number, layout=layout))
    write_shard(directory / "train-poison.tar", poison_samples())
    steps = {"global_batch_size": ROWS, "bucket_window": 4}
    datasets = {
        "train": settings_of(directory, layout, shards=["train-*.tar"], image_size=SIDE, **steps),
        PAGES: settings_of(directory, layout, shards=["pages-*.tar"], image_size=28, **steps),
    }
    written = {}
    for name, settings in servers.items():
        written[name] = directory / f"{name}.yaml"
        written[name].write_text(yaml.safe_dump({"server": dict(settings), "datasets": datasets}))
    return written


def write_certificates(directory: Path) -> tuple[Path, dict[str, str]]:
    """An authority's file, and settings for a server on 127.0.0.1 that it vouches for."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca, certificate, key = (directory / name for name in ("ca.pem", "server.pem", "server-key.pem"))
    authority.cert_pem.write_to_path(ca)
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    return ca, {"certificate": str(certificate), "key": str(key)}
