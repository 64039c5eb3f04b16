"""The two pages of the report, where there is little to tell."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from src.retrieval.errors import ErrorAnalysis
from src.retrieval.pages import write_examples, write_panels
from src.retrieval.retriever import open_retriever
from tests.filters.conftest import CPU


@pytest.mark.parametrize("found", [True, False])
def test_pages_of_captions_that_are_all_found_or_all_missed(pairs, weights, tmp_path, capfd, found):
    """One caption without words and another with a word that no font and no formula has."""
    retriever = open_retriever(weights, pairs, CPU)
    captions = retriever.captions[:2]
    retrieved = retriever.retrieve(captions, 2)
    own = retrieved.own_n
    best = np.stack([own, (own + 1) % 5] if found else [(own + 1) % 5, (own + 2) % 5], axis=1)
    retrieved = replace(retrieved, best_nk=best, rank_n=np.full(2, 1.0 if found else 5.0))
    analysis = ErrorAnalysis(np.array(["", "$犬_"], object), retrieved, retriever.names_G)
    write_panels(tmp_path / "panels.png", analysis, "$title")
    write_examples(tmp_path / "examples.png", retriever, captions, analysis, tmp_path)
    with Image.open(tmp_path / "panels.png") as panels, Image.open(tmp_path / "examples.png") as examples:
        assert panels.size == (1360, 800)
        assert (examples.height > 300) == (not found), "all found: a heading says so"
    assert capfd.readouterr() == ("", "")
