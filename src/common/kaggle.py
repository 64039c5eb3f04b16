"""The Kaggle CLI, with errors that say what to do."""

import re
import subprocess

from src.common.files import InputError

CREDENTIALS = "run `kaggle auth login`, or save an API token of https://www.kaggle.com/settings/api in ~/.kaggle"


def kaggle(*arguments: str) -> str:
    """Run `kaggle competitions …` and return what it prints. Raises InputError that says why it failed."""
    try:
        result = subprocess.run(["kaggle", "competitions", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(f"there is no `kaggle` command here: pip install kaggle, then {CREDENTIALS}") from None
    # Kaggle clients before 2.0 say that they "Could not submit" or "Could not find" on stdout and end with status 0.
    if result.returncode or re.search("^Could not", result.stdout, re.MULTILINE):
        output = result.stderr + result.stdout
        if re.search("Authentication required|Could not find kaggle.json|Unauthorized", output):
            raise InputError(f"Kaggle has no credentials here, or wrong ones: {CREDENTIALS}")
        lines = [line for line in output.splitlines() if line.strip() and "%|" not in line]  # no progress bars
        raise InputError(f"`kaggle competitions {arguments[0]}` failed: {' '.join(lines)[-300:] or 'no reason given'}")
    return result.stdout
