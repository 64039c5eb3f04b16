"""The challenge's files: caption-image pairs, keep-lists, submissions, and how images are split.

May import src.common only.
"""
