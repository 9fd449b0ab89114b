"""Gemma 3 (`model_type: gemma3`): pictures of one fixed size, and crops of long ones where pan and scan is on.

Numpy only: it never decodes or resizes a picture itself.
"""
