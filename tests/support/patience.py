"""How long a test waits for what is sure to come: a limit that only a hang can reach, however busy the machine is.

Limits that a test is about (a server's idle timeout, a worker's CPU time) are another matter and do not use this.
"""

from __future__ import annotations

PATIENCE_S = 600.0
"""More than ten times what the slowest wait takes on an idle machine.

pytest's own limit for a whole test is longer, so that a hang is reported by the wait in which it happened.
"""
