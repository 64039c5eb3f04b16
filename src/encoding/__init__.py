"""A user's own pictures and captions, embedded by frozen encoders: captions files, encoders of three libraries, the
embeddings so far. Imports src.common, src.data, src.filters and src.training; the command `encode` imports it."""
