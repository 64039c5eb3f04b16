"""The Kaggle CLI, with errors that say what to do."""

import re
import subprocess

from src.common.files import InputError

CREDENTIALS = "run `kaggle auth login`, or save an API token of https://www.kaggle.com/settings/api in ~/.kaggle"


def kaggle(command: str, competition: str, *arguments: str) -> str:
    """Run `kaggle competitions <command>` for a competition, a slug or the address of its page, and return what it
    prints. Raises InputError that says why it failed."""
    slug = re.sub(r"^.*/competitions/|/.*$", "", competition)
    line = ["kaggle", "competitions", command, "-c", slug, *arguments]
    try:
        result = subprocess.run(line, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except FileNotFoundError:
        raise InputError(f"there is no `kaggle` command here: pip install kaggle, then {CREDENTIALS}") from None
    # Kaggle clients before 2.0 say that they "Could not submit" or "Could not find" on stdout and end with status 0.
    if result.returncode or re.search("^Could not", result.stdout, re.MULTILINE):
        output = result.stderr + result.stdout
        if re.search("Authentication required|Could not find kaggle.json|Unauthorized", output):
            raise InputError(f"Kaggle has no credentials here, or wrong ones: {CREDENTIALS}")
        lines = [line for line in output.splitlines() if line.strip() and "%|" not in line]  # no progress bars
        reason = " ".join(lines)[-300:] or "no reason given"
        if re.search("403|Forbidden", output):
            page = f"https://www.kaggle.com/competitions/{slug}"
            reason += f"; join the competition and accept its rules first: {page}/rules"
        raise InputError(f"`kaggle competitions {command}` failed: {reason}")
    return result.stdout
