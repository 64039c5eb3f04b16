"""See what a translator retrieves: the images that it ranks first for captions or for any text, and where it errs.

    python -m src.retrieve                                # 4 random captions and the 4 worst, by the best run
    python -m src.retrieve --caption 123 456 --top-k 10   # captions by their ids
    python -m src.retrieve --containing "two dogs" --worst 8      # of the captions that contain a text
    python -m src.retrieve --text "two dogs on grass"     # any text; needs `pip install sentence-transformers`
    python -m src.retrieve --gallery other.npz            # among the images of another file
    python -m src.retrieve --report                       # which captions, words and images it fails on

Captions and images are those that validated the run: it never saw them in training. Beside its weights this writes
retrieval.png, a sheet with a row a caption: its text, the images that it finds, the right one framed or, if it is none
of them, at the end with its rank. With --report it writes retrieval_errors.png, how ranks go with the length and the
words of captions and which images are found too often, and retrieval_examples.png, with likely wrong pairs.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from src.common.cli import Parser, add_device_argument, positive_int, print_settings
from src.common.endings import run_main
from src.common.files import InputError, require_file, try_outputs
from src.common.paths import IMAGES_ROOT, MODELS_DIR, TRAIN_NPZ
from src.encoding.challenge import TEXT_ENCODER
from src.training.runs import best_weights

if TYPE_CHECKING:
    from src.retrieval.choice import Choice
    from src.retrieval.retriever import Retriever

CHOOSERS = ("caption", "containing", "random", "worst", "text", "encoder")  # what is shown, so not of a report


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    shown = parser.add_argument_group("what is shown", "(default: --random 4 --worst 4)")
    shown.add_argument("--caption", type=int, nargs="+", metavar="ID", help="captions by their ids")
    shown.add_argument("--containing", metavar="TEXT", help="choose among the captions that contain it")
    shown.add_argument("--random", type=positive_int, metavar="N", help="so many captions, others each time")
    shown.add_argument("--worst", type=positive_int, metavar="N", help="the captions whose image ranks worst")
    shown.add_argument("--text", nargs="+", metavar="TEXT", help="any text, encoded by --encoder")
    encoder = f"of the library sentence-transformers: its name or folder (default: {TEXT_ENCODER})"
    shown.add_argument("--encoder", metavar="NAME", help=encoder)
    shown.add_argument("--report", action="store_true", help="an error analysis of all captions instead")
    parser.add_argument("--top-k", type=positive_int, default=5, help="images for each; a miss is what ranks below")
    parser.add_argument("--input-npz", type=Path, default=TRAIN_NPZ, help="the captions and their images")
    parser.add_argument("--all-images", action="store_true", help="also those that the translator was trained on")
    parser.add_argument("--gallery", type=Path, metavar="NPZ", help="rank the images of this file instead")
    parser.add_argument("--images", type=Path, default=IMAGES_ROOT, metavar="FOLDER", help="where the pictures lie")
    parser.add_argument("--weights", type=Path, help="of the translator (default: the best run's)")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="of trained models")
    parser.add_argument("--output", type=Path, metavar="PNG", help="(default: beside the weights)")
    add_device_argument(parser)
    args = parser.parse_args(argv)
    chosen = {name: value for name in CHOOSERS if (value := getattr(args, name)) is not None}
    if args.report and chosen:
        raise InputError(f"--{next(iter(chosen))} and --report: a report is of all captions")
    if args.encoder and not args.text:
        raise InputError("--encoder: encodes what --text gives; there is none")
    if args.output and args.output.suffix.lower() != ".png":
        raise InputError(f"--output {args.output}: is to be a PNG, whose name ends in .png")

    from src.data.pairs import fingerprint, open_pairs
    from src.retrieval.choice import Choice
    from src.retrieval.retriever import open_retriever
    from src.training.machine import find_device

    device = find_device(args.device)
    weights = require_file(args.weights or best_weights(args.models_dir, args.input_npz))
    output = args.output or weights.with_name("retrieval_errors.png" if args.report else "retrieval.png")
    outputs = [output]
    if args.report:
        outputs.append(output.with_name(f"{output.stem.removesuffix('_errors')}_examples.png"))
    try_outputs(outputs, (weights, args.input_npz, args.gallery))
    contents = fingerprint(args.input_npz)
    retriever = open_retriever(
        weights, open_pairs(args.input_npz), device, all_images=args.all_images, gallery_npz=args.gallery
    )
    pictures = "" if args.images.is_dir() else " (no folder: names alone are shown)"
    print_settings(
        "retrieving images by captions",
        {
            "translator": weights,
            "pairs": f"{args.input_npz} ({contents})",
            "captions": f"{len(retriever.captions):,}, {retriever.seen}",
            "gallery": f"{len(retriever.names_G):,} images{f' of {args.gallery}' if args.gallery else ''}",
            "pictures": f"{args.images}{pictures}",
            "device": device,
        },
    )
    if args.report:
        analyse(retriever, args.top_k, args.images, *outputs)
        return
    choice = None
    if args.text is None or chosen.keys() - {"text", "encoder"}:
        choice = Choice(
            caption_ids=args.caption or (), containing=args.containing, random=args.random or 0, worst=args.worst or 0
        )
    show(retriever, choice, args.text or [], args.encoder or TEXT_ENCODER, args.top_k, args.images, output)


def show(
    retriever: "Retriever",
    choice: "Choice | None",
    texts: list[str],
    encoder: str,
    top_k: int,
    images_root: Path,
    output: Path,
) -> None:
    """Print and draw what captions and texts find. Raises InputError."""
    import numpy as np

    from src.encoding.text_encoder import load_text_encoder
    from src.retrieval.sheet import caption_rows, check_room, sheet_row, table_lines, write_sheet
    from src.retrieval.text_encoder import encode_like
    from src.training.machine import Machine

    sections = {}
    chosen = choice.choose(retriever, np.random.default_rng()) if choice else {}
    check_room(sum(map(len, chosen.values())) + len(texts), top_k)
    for heading, captions in chosen.items():
        found = retriever.retrieve(captions, top_k)
        sections[f"captions: {heading}"] = caption_rows(retriever, captions, found, range(len(captions)))
    if texts:
        machine = Machine(retriever.gallery_GV.device)
        vectors = encode_like(retriever.pairs, texts, load_text_encoder(encoder, "--encoder"), machine)
        found = retriever.retrieve_vectors(vectors, np.full(len(texts), -1), top_k)
        sections["texts"] = [sheet_row(retriever, found, query, text) for query, text in enumerate(texts)]
    for heading, rows in sections.items():
        print(f"\n{heading}")
        for row in rows:
            print(*table_lines(row), sep="\n")
    write_sheet(output, sections, images_root)
    print(f"\nsheet: {output}")


def analyse(retriever: "Retriever", top_k: int, images_root: Path, panels: Path, examples: Path) -> None:
    """Print and draw where the translator errs. Raises InputError."""
    from src.retrieval.errors import ErrorAnalysis
    from src.retrieval.pages import EXAMPLES, write_examples, write_panels
    from src.retrieval.sheet import check_room

    pairs, captions = retriever.pairs, retriever.captions[retriever.own_N[retriever.captions] >= 0]
    if not len(captions):
        raise InputError("--report: no caption has a rank, as the gallery lacks the images of all")
    check_room(3 * EXAMPLES, top_k)
    analysis = ErrorAnalysis(pairs.caption_texts[captions], retriever.retrieve(captions, top_k), retriever.names_G)
    about = f"{len(captions):,} captions, {len(retriever.names_G):,} images; {retriever.seen}"
    write_panels(panels, analysis, f"{retriever.weights}\n{about}")
    write_examples(examples, retriever, captions, analysis, images_root)
    files = {"panels": str(panels), "examples": str(examples)}
    print_settings("where it errs", analysis.describe(pairs.caption_ids[captions]) | files)


if __name__ == "__main__":
    run_main(main)
