"""owl-stream: batched, correctly padded multimodal samples, streamed to trainers.

The client lives in `owl_client`; this package is the server's side and the wire format that both share.
"""

__version__ = "0.1.0"
