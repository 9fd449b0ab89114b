"""Who may read: named tokens, compared as bytes in constant time, and never shown again."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from owl_stream.config import Config
from owl_stream.errors import ConfigError
from owl_stream.strict_yaml import read_settings_file

MIN_TOKEN_CHARS = 16
"""A shorter secret can be guessed. `openssl rand -hex 32` makes one of 64."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Tokens:
    """The server's tokens by name. Without any, everyone may read; they do not show in `repr`."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._named = {name: token.encode("ascii") for name, token in named.items()}
        self._key = secrets.token_bytes(32)
        self._digests = {name: self._digest(token) for name, token in self._named.items()}

    def __bool__(self) -> bool:
        return bool(self._named)

    def __repr__(self) -> str:
        return f"Tokens({', '.join(self._named) or 'none'})"

    @property
    def names(self) -> tuple[str, ...]:
        """What metrics, logs and limits call those who read."""
        return tuple(self._named)

    def name_of(self, presented: bytes) -> str | None:
        """Whose token this is, None if nobody's.

        All tokens are compared, each as a digest: time tells neither how much of one was right nor how long it is.
        """
        digest, found = self._digest(presented), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def sign(self, name: str, message: bytes) -> bytes:
        """A digest that only who has that token can make; empty for a name that is not known."""
        token = self._named.get(name)
        return b"" if token is None else hmac.digest(token, b"owl-stream\0" + message, "sha256")

    def masked(self, text: str) -> str:
        """`text` with every token blotted out: for texts that may repeat what somebody sent to the wrong place."""
        for token in self._named.values():
            text = text.replace(token.decode("ascii"), "***")
        return text

    def _digest(self, token: bytes) -> bytes:
        return hmac.digest(self._key, token, "sha256")


def read_tokens(config: Config) -> Tokens:
    """The tokens of the configuration, its environment and its tokens file.

    Raises:
        ConfigError: the file cannot be read, or a name or token cannot be; the message shows no token.
    """
    access, named = config.server.access, dict[str, str]()
    places = [(f"server.access.tokens.{name}", name, each.get_secret_value()) for name, each in access.tokens.items()]
    if access.tokens_file is not None:
        places += _read_file(config.base / access.tokens_file)
    for place, name, token in places:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{place}: expected a name of letters, digits, `_`, `.` and `-`, at most 64")
        if name in named or token in named.values():
            raise ConfigError(f"{place}: this name or its token is given twice; give each reader its own")
        if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"{place}: expected at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces, got "
                f"{len(token)} characters; `openssl rand -hex 32` makes a good one"
            )
        named[name] = token
    return Tokens(named)


def check_exposure(host: str, address: str, tokens: Tokens, config: Config) -> None:
    """Refuse to listen for a whole network without asking who is there. `address` is what `host` resolved to.

    Raises:
        ConfigError: neither tokens nor a client CA, and nobody has said that this is meant.
    """
    server = config.server
    asks = bool(tokens) or server.tls.client_ca is not None
    if asks or server.access.allow_anonymous or ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return
    raise ConfigError(
        f"listening on {host} without tokens would let everyone who reaches it read the data: set "
        f"server.access.tokens_file (or OWL_SERVER__ACCESS__TOKENS__NAME), listen on 127.0.0.1, or say "
        f"--allow-anonymous (OWL_SERVER__ACCESS__ALLOW_ANONYMOUS=true) if only those who may read can reach it"
    )


def _read_file(path: Path) -> list[tuple[str, str, str]]:
    """Lines `name: token`, which is YAML too; `#` begins a comment line. Returns (place, name, token) of each."""
    text = read_settings_file(path, "the tokens", "see server.access.tokens_file")
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        name, colon, token = (part.strip() for part in line.partition(":"))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not colon:
            raise ConfigError(f"{path}, line {number}: expected `name: token`, got no colon")
        if len(token) > 1 and token[0] == token[-1] and token[0] in "'\"":
            token = token[1:-1]
        entries.append((f"{path}, line {number}", name, token))
    if not entries:
        raise ConfigError(f"{path}: expected lines `name: token`, got none")
    return entries
