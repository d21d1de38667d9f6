"""Put NanoTrack V3's backbone in the place of a network's stem.

    python scripts/replace_stem.py nano PEERS/nanotrack_backbone.onnx configs/nano_video.yaml --data-root DATA \
      --output runs/nano_mobile.safetensors

The stem's features are projected to tokens by the linear map that comes nearest to the tokens of the stem before, in
least squares over crops of the configuration's training pairs. The rest of the network stays as it is: training on
from there costs far less than from nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vil_tracker.cli import guarded
from vil_tracker.config import load_config
from vil_tracker.data.crops import to_input
from vil_tracker.data.sampling import PairSample, Source
from vil_tracker.data.sources import build_source
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model, save_model
from vil_tracker.models.stem import MobileStem, load_mobile_stem

STEM = "backbone.patch_embed."
RIDGE = 1e-3  # relative to the features' mean variance


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="name or file of the weights whose stem is replaced")
    parser.add_argument("backbone", type=Path, help="nanotrack_backbone.onnx of V3")
    parser.add_argument("config", type=Path, help="training configuration whose pairs are looked at")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="where decoded pictures are kept")
    parser.add_argument("--pairs", type=int, default=400, help="pairs to look at (default: 400)")
    parser.add_argument("--output", type=Path, required=True, help="weights file to write")
    args = parser.parse_args()
    return guarded(lambda: run(args))


@torch.no_grad()
def run(args: argparse.Namespace) -> int:
    before = load_model(args.weights, "cpu")
    config = load_config(args.config)
    source = build_source(replace(config, model=before.config), args.data_root, args.cache)
    after = build_network(replace(before.config, stem="mobile"))
    stem = after.backbone.patch_embed
    assert isinstance(stem, MobileStem)
    load_mobile_stem(stem, args.backbone)
    features, tokens = zip(*(_answers(before, stem, source, index) for index in range(args.pairs)), strict=True)
    share = fit_projection(stem, torch.cat(features), torch.cat(tokens))
    kept = {name: value for name, value in before.state_dict().items() if not name.startswith(STEM)}
    new = {name: value for name, value in after.state_dict().items() if name.startswith(STEM)}
    after.load_state_dict({**kept, **new})
    save_model(after, args.output, {}, dtype=torch.float32)
    print(f"{args.output}: the projection explains {100 * share:.0f} % of the variance of the tokens before")
    return 0


def _answers(before: ViLTrackerNet, stem: MobileStem, source: Source, index: int) -> tuple[Tensor, Tensor]:
    """Features (n, 96) of the new stem and tokens (n, D) of the old one, for both crops of a pair."""
    sample = source.sample(np.random.default_rng(index), 1.0)
    assert isinstance(sample, PairSample)
    pictures = (torch.from_numpy(picture)[None] for picture in (sample.template, sample.search))
    crops = [to_input(picture, torch.device("cpu")) for picture in pictures]
    features = [rearrange(stem.features(crop), "b c h w -> (b h w) c") for crop in crops]
    tokens = [rearrange(before.backbone.patch_embed(crop), "b d h w -> (b h w) d") for crop in crops]
    return torch.cat(features), torch.cat(tokens)


def fit_projection(stem: MobileStem, features_NC: Tensor, tokens_ND: Tensor) -> float:
    """Set the projection by ridge regression; gives the share of the tokens' variance that it explains."""
    features, tokens = features_NC.double(), tokens_ND.double()
    mean, target = features.mean(0), tokens.mean(0)
    centred, wanted = features - mean, tokens - target
    gram = centred.T @ centred
    weight = torch.linalg.solve(
        gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).double(), centred.T @ wanted
    )
    stem.proj.weight.copy_(weight.T[..., None, None])
    stem.proj.bias.copy_(target - mean @ weight)  # type: ignore[union-attr]
    return 1 - float((wanted - centred @ weight).square().sum() / wanted.square().sum())


if __name__ == "__main__":
    sys.exit(main())
