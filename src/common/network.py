"""Whether there is a network to download by: clients of the Hugging Face Hub try for a minute before they give up."""

import os
import threading
import urllib.error
import urllib.request

from src.common.files import InputError

HUB, SECONDS = "https://huggingface.co", 3


def require_network(what: str) -> None:
    """Raises InputError, saying `what` is to be downloaded, if the Hub, or the mirror that HF_ENDPOINT names, does not
    answer within seconds, by the proxies of the environment, or if HF_HUB_OFFLINE forbids to ask it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(f"{what} is to be downloaded, but HF_HUB_OFFLINE is set")
    hub, reasons = os.environ.get("HF_ENDPOINT") or HUB, [f"no answer in {SECONDS} s"]

    def ask() -> None:
        try:
            urllib.request.build_opener().open(urllib.request.Request(hub, method="HEAD"), timeout=SECONDS).close()
        except urllib.error.HTTPError:
            pass  # is an answer, too
        except (OSError, ValueError) as error:
            reasons[:] = [str(getattr(error, "reason", error))]
            return
        reasons.clear()

    asking = threading.Thread(target=ask, daemon=True)  # names may take longer to look up than any timeout
    asking.start()
    asking.join(SECONDS)
    if reasons:
        raise InputError(f"{what} is to be downloaded, but {hub} cannot be reached ({reasons[0]})")
