"""Models of the Hugging Face Hub: had from its cache, or downloaded if there is a network."""

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from src.common.files import InputError
from src.common.network import require_network


@contextmanager
def loading(what: str, repository: str | None) -> Iterator[None]:
    """Load a model here, of the Hub unless `repository` is None. Raises InputError for whatever goes wrong, and within
    seconds if there is no network to download by; with one that is in the cache none is needed."""
    if repository:
        try:
            require_network(what)
        except InputError as error:
            if not _is_cached(repository):
                raise InputError(
                    f"{error}; run once with a network, copy the Hugging Face cache of a machine that has it (HF_HOME "
                    "names its folder), or name a local folder or file"
                ) from None
            _stay_offline()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the libraries and what they call raise nearly anything
        reason = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" …")
        raise InputError(f"{what}: cannot be loaded ({reason})") from None


def _is_cached(repository: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = f"models--{repository.replace('/', '--')}/snapshots"
    return os.path.isdir(os.path.join(HF_HUB_CACHE, snapshots))  # noqa: PTH112, PTH118 (a str, whatever it holds)


def _stay_offline() -> None:
    """Have the Hub's client take what is cached at once, instead of asking for newer files for minutes."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
