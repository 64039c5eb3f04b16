"""The embedded sample, an invented dataset, and `prepare`, which puts it or the challenge's data into place.

Imports `src.common` and `src.data`, nothing else of `src`; nothing in `src` imports it, only tests do.
"""
