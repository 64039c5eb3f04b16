"""The challenge's files: caption-image pairs, keep-lists, submissions; which images validate.

May import src.common only."""
