"""InternVL in the form of transformers (`model_type: internvl`): pictures are cut into tiles, each a run of tokens.

Numpy only: it never decodes or resizes a picture itself.
"""
