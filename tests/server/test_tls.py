"""TLS and mutual TLS on real sockets, with certificates made for the test."""

from __future__ import annotations

import http.client
import pickle
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from owl_client import OwlStreamDataset, Tls
from owl_stream.config import load_config
from owl_stream.errors import ConfigError, ServerError
from owl_stream.server.tls import tls_options
from tests.support.datasets import small_dataset, write_config
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess

TOKEN = "trainer-0123456789abcdef"


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server and a client that it vouches for, and a stranger's authority and client."""

    directory: Path

    def path(self, name: str) -> Path:
        """The file of that name."""
        return self.directory / f"{name}.pem"

    def tls(self, client: str = "") -> Tls:
        """What a client is given."""
        if not client:
            return Tls(ca=self.path("ca"))
        return Tls(self.path("ca"), self.path(client), self.path(f"{client}-key"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for 127.0.0.1."""
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(made.path("ca"))
    theirs.cert_pem.write_to_path(made.path("stranger-ca"))
    for name, authority, identity in (
        ("server", ours, "127.0.0.1"),
        ("client", ours, "trainer@owl.example"),
        ("stranger", theirs, "trainer@owl.example"),
    ):
        issued = authority.issue_cert(identity)
        issued.private_key_pem.write_to_path(made.path(f"{name}-key"))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(made.path(name), append=True)
    return made


def served(certificates: Certificates, directory: Path, **tls: str) -> ServerProcess:
    """A server with TLS and a token."""
    files = {"certificate": str(certificates.path("server")), "key": str(certificates.path("server-key")), **tls}
    settings = {"tls": files, "access": {"tokens": {"trainer": TOKEN}}, "workers": 0}
    return ServerProcess(small_dataset(directory, server=settings))


@pytest.fixture(scope="module")
def secure(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that shows a certificate and asks for none."""
    with served(certificates, tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that answers only clients that its authority vouches for."""
    ca = str(certificates.path("ca"))
    with served(certificates, tmp_path_factory.mktemp("mtls"), client_ca=ca) as server:
        yield server


def epoch(server: ServerProcess, tls: Tls) -> int:
    """Rows that a trainer reads in an epoch."""
    with OwlStreamDataset(server.url, tls=tls, token=TOKEN, give_up_after_s=PATIENCE_S) as dataset:
        return sum(len(batch.meta.rows) for batch in dataset)


def answer_of(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """What the server says to an innocent request; the connection is closed whatever happens."""
    try:
        connection.request("GET", "/livez")
        return connection.getresponse()
    finally:
        connection.close()


def test_a_trainer_reads_over_tls(secure: ServerProcess, certificates: Certificates) -> None:
    """With the authority that vouches for the server; its files, not their contents, travel to workers."""
    assert secure.url.startswith("https://")
    assert epoch(secure, pickle.loads(pickle.dumps(certificates.tls()))) == 44


def test_a_trainer_refuses_a_server_that_nobody_vouches_for(secure: ServerProcess, certificates: Certificates) -> None:
    """Without its authority, and under a name that the certificate does not hold; at once, not after all tries."""
    with pytest.raises(ServerError, match=r"no trust.*CERTIFICATE_VERIFY_FAILED.*tls=Tls"):
        epoch(secure, Tls())
    elsewhere = OwlStreamDataset(secure.url.replace("127.0.0.1", "localhost"), tls=certificates.tls(), token=TOKEN)
    with elsewhere, pytest.raises(ServerError, match=r"no trust.*localhost"):
        next(iter(elsewhere))


def test_plain_http_gets_nothing_from_a_tls_port(secure: ServerProcess) -> None:
    """A token that is sent in the clear by mistake is not answered, and the server goes on."""
    parts = urlsplit(secure.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        answer_of(connection)


def test_old_protocol_versions_are_refused(secure: ServerProcess, certificates: Certificates) -> None:
    """TLS 1.1 ends in the handshake."""
    parts = urlsplit(secure.url)
    context = ssl.create_default_context(cafile=certificates.path("ca"))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((parts.hostname or "", parts.port or 0)) as sock,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_mutual_tls_answers_only_those_it_knows(mutual: ServerProcess, certificates: Certificates) -> None:
    """A certificate of the client authority is required once there is one: none and a stranger's get no answer."""
    assert epoch(mutual, certificates.tls("client")) == 44
    context = ssl.create_default_context(cafile=certificates.path("ca"))
    parts = urlsplit(mutual.url)
    for name in ("", "stranger"):
        if name:
            context.load_cert_chain(certificates.path(name), certificates.path(f"{name}-key"))
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S, context=context)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            answer_of(connection)


def test_tls_files_that_cannot_be_are_refused(tmp_path: Path, certificates: Certificates) -> None:
    """The error names the files and what is wrong with them."""
    certificate, key = str(certificates.path("server")), str(certificates.path("server-key"))
    for tls, message in (
        ({"certificate": certificate, "key": "missing.pem"}, r"missing\.pem"),
        ({"certificate": certificate, "key": certificate}, r"server\.tls"),
        ({"certificate": certificate, "key": str(certificates.path("client-key"))}, "KEY_VALUES_MISMATCH"),
        ({"certificate": certificate}, "both `certificate` and `key`"),
        ({"client_ca": certificate}, "needs `certificate`"),
        ({"certificate": certificate, "key": key, "client_ca": "missing.pem"}, r"missing\.pem"),
    ):
        with pytest.raises(ConfigError, match=message):
            tls_options(load_config(write_config(tmp_path, server={"tls": tls}), {}))


def test_a_server_without_its_key_does_not_start(tmp_path: Path, certificates: Certificates) -> None:
    """Exit code 2 and one line, before anything listens."""
    tls = {"certificate": str(certificates.path("server")), "key": "missing.pem"}
    config = write_config(tmp_path, server={"tls": tls, "port": 0})
    command = [sys.executable, "-m", "owl_stream.cli", "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "missing.pem" in done.stderr


def test_a_trainers_files_are_checked_at_once(certificates: Certificates) -> None:
    """A missing file, half a pair and a file that is no PEM are configuration errors."""
    ca = certificates.path("ca")
    for arguments in ({"ca": "missing.pem"}, {"certificate": ca}, {"ca": __file__}, {"certificate": ca, "key": ca}):
        with pytest.raises(ConfigError, match="tls"):
            Tls(**arguments)
