"""The demo: a small data set of real photographs, and the main job run on it through the same commands as everyone's.

It never reaches behind the client. `owl_stream.demo.job.run_demo` imports torch, so it is not re-exported here.
"""

from owl_stream.demo.dataset import build_demo_dataset

__all__ = ["build_demo_dataset"]
