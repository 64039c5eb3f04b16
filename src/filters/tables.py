"""Read a CSV of known columns, whatever is wrong with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.common.files import InputError


def read_table(path: Path, dtypes: Mapping[str, Any], what: str, hint: str = "") -> pd.DataFrame:
    """Read these columns of a CSV; a text is taken as it is. Raises InputError, saying `what` it should be."""
    try:
        with np.errstate(invalid="ignore"):  # of what is no number, and is an error in the next moment
            return pd.read_csv(path, dtype=dict(dtypes), usecols=[*dtypes], keep_default_na=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: not {what} ({error}){hint}") from None
