"""What the Qwen-VL families (2, 2.5, 3, 3.5) share: sizes, patches, positions and a video's text.

Functions over numpy arrays; they decode nothing, know no tokenizer and touch no file.
"""
