"""Any model by its own Hugging Face processor (transformers), which is run on every picture: right, and slower.

transformers is imported when a configuration asks for this layout, and nowhere else.
"""
