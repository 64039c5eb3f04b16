"""The error analysis as two pictures: a page of panels and a page of examples."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from src.common.figures import BLUE, ORANGE, RED, new_figure, save_figure
from src.retrieval.errors import ErrorAnalysis
from src.retrieval.retriever import Retriever
from src.retrieval.sheet import SheetRow, Thumbnail, abbreviated, caption_rows, write_sheet

FOUND, MISSED, SUSPECT = BLUE, ORANGE, RED
WORDS, HUBS = 10, 12  # in their panels: words of missed captions and as many of found ones; images
EXAMPLES = 5  # of each kind


def write_panels(path: Path, analysis: ErrorAnalysis, title: str) -> None:
    """Write a PNG: ranks, scores, lengths, words, hubs and how often images are found."""
    figure = new_figure(17, 10)
    figure.suptitle(title, fontsize=13, parse_math=False)
    ranks, scores, lengths, words, hubs, occurrence = figure.subplots(2, 3).flat
    _draw_ranks(ranks, analysis)
    _draw_scores(scores, analysis)
    _draw_lengths(lengths, analysis)
    _draw_words(words, analysis)
    _draw_hubs(hubs, analysis)
    _draw_occurrence(occurrence, analysis)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of letters that the font lacks
        save_figure(figure, path, dpi=80)


def _draw_ranks(axes: Axes, analysis: ErrorAnalysis) -> None:
    ranks, images = np.sort(analysis.retrieved.rank_n), len(analysis.names)
    k = np.arange(1, images + 1)
    axes.plot(k, np.searchsorted(ranks, k, side="right") / len(ranks), color=FOUND, label="the translator")
    axes.plot(k, k / images, color="gray", ls="--", label="chance")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="k", ylabel="captions whose image is among the first k")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"recall; MRR {analysis.measures['mrr']:.3f}")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_scores(axes: Axes, analysis: ErrorAnalysis) -> None:
    best, own, suspect = analysis.retrieved.best_score_nk[:, 0], analysis.retrieved.score_n, analysis.suspect
    for chosen, color, name in (
        (~analysis.missed & ~suspect, FOUND, f"among the first {analysis.top_k}"),
        (analysis.missed & ~suspect, MISSED, "missed"),
        (suspect, SUSPECT, "suspect: in the worse half"),
    ):
        axes.scatter(best[chosen], own[chosen], s=8, alpha=0.6, color=color, label=f"{name}: {chosen.sum():,}")
    ends = best.min(), best.max()
    axes.plot(ends, ends, color="gray", lw=1)
    axes.set(xlabel="score of the first image", ylabel="score of the own image", title="scores (cosine similarity)")
    axes.legend(loc="upper left", fontsize=8)  # where no point can be: the first image scores highest


def _draw_lengths(axes: Axes, analysis: ErrorAnalysis) -> None:
    table = analysis.by_length
    axes.bar(np.arange(len(table)), table.mrr, yerr=table.error, color=FOUND, capsize=4)
    axes.set_xticks(np.arange(len(table)), [f"{row.words}\n({row.captions:,})" for row in table.itertuples()])
    correlation = f"length; Spearman's correlation with the rank {analysis.length_correlation:+.2f}"
    axes.set(xlabel="words of the caption (captions)", ylabel="MRR ± standard error", title=correlation)


def _draw_words(axes: Axes, analysis: ErrorAnalysis) -> None:
    table = analysis.words
    missed, found = table[table.z > 0][:WORDS], table[table.z < 0][-WORDS:]
    for rows, color, start in ((missed, MISSED, 0), (found, FOUND, len(missed))):
        axes.barh(start + np.arange(len(rows)), rows.z, color=color)
    labels = [
        f"{abbreviated(row.word, 20)} ({row.missed:,} of {row.missed + row.found:,})"
        for rows in (missed, found)
        for row in rows.itertuples()
    ]
    axes.set_yticks(np.arange(len(labels)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    for z in (-2, 2):
        axes.axvline(z, color="gray", lw=1, ls="--")
    axes.set(xlabel="z of the log-odds, missed against found", title="words (missed of all captions)")


def _draw_hubs(axes: Axes, analysis: ErrorAnalysis) -> None:
    hubs = analysis.hubs(HUBS)
    axes.barh(np.arange(len(hubs)), analysis.wrongly_first[hubs], color=MISSED)
    labels = [abbreviated(analysis.names[hub], 28) for hub in hubs]
    axes.set_yticks(np.arange(len(hubs)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="captions not its own", title="images that are first for captions not their own")


def _draw_occurrence(axes: Axes, analysis: ErrorAnalysis) -> None:
    times, images = np.unique(analysis.occurrence, return_counts=True)
    axes.bar(times, images, width=1, color=FOUND, ec="white", lw=0.3)
    axes.axvline(
        analysis.occurrence.mean(), color="black", lw=1, ls="--", label=f"mean {analysis.occurrence.mean():.1f}"
    )
    axes.set(xlabel=f"among the first {analysis.top_k} of so many captions", ylabel="images")
    axes.set_title(f"{analysis.top_k}-occurrence, skewness {analysis.hubness:+.2f}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def write_examples(
    path: Path, retriever: Retriever, captions: np.ndarray, analysis: ErrorAnalysis, images_root: Path
) -> None:
    """Write a PNG: suspect pairs, other misses, and hubs with the images whose captions they attract. `captions`
    (n,) are those of the analysis."""
    retrieved, suspect, missed = analysis.retrieved, analysis.suspect, analysis.missed
    order, sections = retrieved.worst_first, {}
    for heading, of_them in (
        ("suspect pairs, wrong or not understood: the own image is in the worse half", suspect),
        (f"other captions whose image is not among the first {analysis.top_k}", missed & ~suspect),
    ):
        sections[heading] = caption_rows(retriever, captions, retrieved, order[of_them[order]][:EXAMPLES])
    sections["images that are first for captions not their own: these captions, with their own images"] = [
        _hub_row(retriever, captions, analysis, hub) for hub in analysis.hubs(EXAMPLES) if analysis.wrongly_first[hub]
    ]
    sections = {heading: rows for heading, rows in sections.items() if rows}
    write_sheet(path, sections or {"every caption finds its own image first": []}, images_root)


def _hub_row(retriever: Retriever, captions: np.ndarray, analysis: ErrorAnalysis, hub: int) -> SheetRow:
    """A hub, and the own images of the captions that it attracts most strongly, each image once."""
    retrieved = analysis.retrieved
    attracted = np.flatnonzero((retrieved.best_nk[:, 0] == hub) & (retrieved.own_n != hub))
    attracted = attracted[np.argsort(-retrieved.best_score_nk[attracted, 0], kind="stable")]
    _, first = np.unique(retrieved.own_n[attracted], return_index=True)
    attracted = attracted[np.sort(first)][:EXAMPLES]
    ids, texts = (each[captions[attracted]] for each in (retriever.pairs.caption_ids, retriever.pairs.caption_texts))
    told = [f"{caption_id}: {text}" for caption_id, text in zip(ids, texts, strict=True)]
    others = [
        Thumbnail(analysis.names[own], f"of {caption_id}")
        for own, caption_id in zip(retrieved.own_n[attracted], ids, strict=True)
    ]
    title = f"first for {analysis.wrongly_first[hub]}"
    return SheetRow(told, [Thumbnail(analysis.names[hub], title), *others])
