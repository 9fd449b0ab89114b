"""What the processes that we start learn of our environment: what they need in order to run, and no secret.

Workers and indexing processes open what strangers wrote, and need neither tokens nor anybody's cloud keys. Secrets have
any name, so this is a list of what is handed on, and everything else stays here.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

_HANDED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TEMP", "TMP", "TZ", "TZDIR", "LANG", "LANGUAGE", "LOCPATH"),
        *("VIRTUAL_ENV", "CONDA_PREFIX", "NIX_LD", "NIX_LD_LIBRARY_PATH", "GLIBC_TUNABLES", "UV_THREADPOOL_SIZE"),
        *("TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS", "RUST_BACKTRACE", "RUST_MIN_STACK"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "RES_OPTIONS", "LOCALDOMAIN"),
    }
)
_BEGINNINGS = (
    *("LC_", "PYTHON", "LD_", "DYLD_", "MALLOC_", "COVERAGE_", "COV_CORE_"),
    *("OMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "NUMEXPR_", "VECLIB_", "NPY_"),
    *("ASAN_", "LSAN_", "TSAN_", "UBSAN_", "OPENSSL_"),
)
"""Python, locale, loader, allocator, thread pools, coverage and sanitizers."""

_SECRET = re.compile(r"(TOKEN|SECRET|PASSW|CREDENTIAL|_KEY$|_KEY_)", re.IGNORECASE)
"""In a name that only begins as if it were for Python or the loader (`LD_SDK_KEY` is of LaunchDarkly)."""

_TOKENS = ("OWL_SERVER__ACCESS__TOKENS", "OWL_TOKEN")


class _Own:
    """Whether this process is ours alone; set once, by `withhold`."""

    process = False


def environment() -> dict[str, str]:
    """The environment of a process that we start."""
    return {name: value for name, value in os.environ.items() if _is_handed_on(name)}


def withhold() -> None:
    """From now on every process that this one starts has that environment, also where nobody says which.

    `os.environ` stays as it is, so that the configuration and libraries find in it what they look for. For programs
    whose process is their own, before they start threads.
    """
    _Own.process = True
    for name in os.environ:
        if not _is_handed_on(name):
            with suppress(OSError, ValueError):  # a name that no system call takes, and that no process inherits
                os.unsetenv(name)


def forget_tokens() -> None:
    """Remove the tokens from `os.environ`, now that they have been read.

    Does nothing where the process is not ours: who starts a second server in it would have none.
    """
    if _Own.process:
        for name in [name for name in os.environ if name.upper().startswith(_TOKENS)]:
            del os.environ[name]


def _is_handed_on(name: str) -> bool:
    return name in _HANDED_ON or (name.startswith(_BEGINNINGS) and not _SECRET.search(name))
