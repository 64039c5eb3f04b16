"""A tiny CLIP for the embedded sample, so that the CLIP filter runs whole without a download.

    python -m tests.tiny_clip models/tiny_clip      # about a minute and a half on two cores
    python -m src.clip_filter_pairs --model models/tiny_clip/tiny_clip.json \\
        --pretrained models/tiny_clip/tiny_clip.safetensors
    python -m tests.known_noise data/filtered/train_clip_q0.10_from_raw.keep.npz

It is open_clip's architecture, tokenizer and preprocessing at 64 pixels. It learns from scenes of its own, drawn as
the sample's are but other ones and none of them swapped: as a real CLIP it has not seen the pairs that it judges.

Shapes: B pairs in a batch, L tokens.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file

from src.common.cli import Parser
from src.common.endings import run_main
from src.common.files import atomic_path, write_json
from src.common.progress import Progress
from src.sample.scenes import describe, paint, random_scene

SCENES, CAPTIONS_A_SCENE = 1800, 5
STEPS, BATCH, LEARNING_RATE = 300, 128, 2e-3
CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 32},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


def make_tiny_clip(folder: Path, seed: int = 0, *, steps: int = STEPS) -> tuple[Path, Path]:
    """Train it; write tiny_clip.json, the model configuration, and tiny_clip.safetensors; return their paths. One
    of no steps, with random weights, is there at once, where any scores will do."""
    config, checkpoint = folder / "tiny_clip.json", folder / "tiny_clip.safetensors"
    write_json(config, CONFIG)
    open_clip.add_model_config(config)
    torch.manual_seed(seed)
    model, _, preprocess = open_clip.create_model_and_transforms("tiny_clip")
    if steps:
        _train(model, steps, *_draw_pairs(preprocess, open_clip.get_tokenizer("tiny_clip"), seed))
    with atomic_path(checkpoint) as temporary:
        save_file(model.state_dict(), temporary)
    return config, checkpoint


def _draw_pairs(preprocess: Callable, tokenize: Callable, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes as pixels (SCENES, 3, 64, 64) and tokens (SCENES, CAPTIONS_A_SCENE, L)."""
    rng = np.random.default_rng((seed, 0x71))  # not one of the sample's seeds
    pixels, texts = [], []
    for _ in Progress(range(SCENES), desc="painting", unit="image", leave=False):
        scene = random_scene(rng)
        pixels.append(preprocess(Image.fromarray(paint(scene, rng))))
        texts += [describe(scene, rng) for _ in range(CAPTIONS_A_SCENE)]
    return torch.stack(pixels), tokenize(texts).view(SCENES, CAPTIONS_A_SCENE, -1)


def _train(model: torch.nn.Module, steps: int, pixels: torch.Tensor, tokens: torch.Tensor) -> None:
    """CLIP's own loss and recipe, small; pictures are shifted by some pixels each step, against memorising."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    loss_of = ClipLoss()
    model.train()
    with Progress(range(steps), desc="training", unit="step", leave=False) as bar:
        for _ in bar:
            chosen = torch.randperm(SCENES)[:BATCH]
            shift = tuple(torch.randint(-3, 4, (2,)).tolist())
            captions = tokens[chosen, torch.randint(CAPTIONS_A_SCENE, (BATCH,))]
            loss = loss_of(*model(torch.roll(pixels[chosen], shift, dims=(2, 3)), captions))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            bar.set_postfix(loss=f"{loss.item():.3f}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__, prog="python -m tests.tiny_clip")
    parser.add_argument("folder", type=Path, help="where tiny_clip.json and tiny_clip.safetensors go")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other scenes and starts elsewhere")
    args = parser.parse_args(argv)
    config, checkpoint = make_tiny_clip(args.folder, args.seed)
    print(f"--model {config} --pretrained {checkpoint}")


if __name__ == "__main__":
    run_main(main)
