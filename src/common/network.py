"""Whether there is a network to download by: clients of the Hugging Face Hub try for a minute before they give up."""

import os
import urllib.error
import urllib.request

from src.common.files import InputError

SECONDS = 3


def require_network(what: str) -> None:
    """Raises InputError, saying `what` is to be downloaded, if the Hub does not answer within seconds, by the proxies
    that the environment names, or if HF_HUB_OFFLINE forbids to ask it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(f"{what} is to be downloaded, but HF_HUB_OFFLINE is set")
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urllib.request.build_opener().open(urllib.request.Request(hub, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:  # an answer
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{what} is to be downloaded, but {hub} cannot be reached ({reason})") from None
