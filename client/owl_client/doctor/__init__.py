"""`owl-stream doctor`: what is wrong between a trainer and its server, found from the trainer's host.

    python -m owl_client.doctor http://loader:8000

needs no more than what the trainer has installed.
"""

from owl_client.doctor.examine import examine
from owl_client.doctor.finding import Case, Finding

__all__ = ["Case", "Finding", "examine"]
