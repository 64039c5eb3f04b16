"""Whether there is a network: libraries that download try for a minute before they say that there is none."""

import os
import threading
import urllib.error
import urllib.request

from src.common.files import InputError

HUB, SECONDS = "https://huggingface.co", 3


def require_network(what: str) -> None:
    """Ask the Hugging Face Hub, or the mirror that HF_ENDPOINT names, whether it is there, through the proxies of the
    environment. Raises InputError within seconds if `what` cannot be downloaded."""
    host, found = os.environ.get("HF_ENDPOINT") or HUB, [f"no answer in {SECONDS} s"]

    def ask() -> None:
        try:
            urllib.request.build_opener().open(urllib.request.Request(host, method="HEAD"), timeout=SECONDS).close()
        except urllib.error.HTTPError:
            pass  # is an answer, too
        except (OSError, ValueError) as error:
            found[:] = [str(getattr(error, "reason", error))]
            return
        found.clear()

    asking = threading.Thread(target=ask, daemon=True)  # names may take longer to look up than any timeout
    asking.start()
    asking.join(SECONDS)
    if found:
        raise InputError(f"no network to download {what}: {host}: {found[0]}")
