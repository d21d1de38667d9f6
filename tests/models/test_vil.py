from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vil_tracker.models.vil import ViL, build_vil, initial_position_embedding

GOLDEN = Path(__file__).parents[1] / "golden" / "vil2_dim64_depth4.safetensors"
DIRECTIONS = ("rowwise_from_top_left", "rowwise_from_bot_right")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def golden_backbone(golden: dict[str, Tensor]) -> ViL:
    model = build_vil(dim=64, depth=4, position_1HWD=initial_position_embedding(64, (4, 6))).double()
    state = {}
    for name in model.state_dict():
        official = name
        if name.startswith("sublayers."):
            _, index, rest = name.split(".", 2)
            official = f"blocks.{int(index) // 2}.{DIRECTIONS[int(index) % 2]}.{rest}"
        state[name] = golden[f"weights.{official}"]
    model.load_state_dict(state)
    return model.eval()


def test_every_activation_of_the_reference(golden: dict[str, Tensor]) -> None:
    model = golden_backbone(golden)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, object]) -> None:
            seen[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    model.patch_embed.register_forward_hook(keep("patch_embed"))
    for index, sublayer in enumerate(model.sublayers):
        sublayer.register_forward_hook(keep(f"sublayer.{index}"))
    with torch.no_grad():
        tokens = model(golden["image"])
    seen["patch_embed"] = seen["patch_embed"].permute(0, 2, 3, 1)
    seen["norm"] = tokens

    expected = {name: value for name, value in golden.items() if name.startswith("activation.")}
    assert len(expected) == 6
    for name, value in expected.items():
        torch.testing.assert_close(seen[name.removeprefix("activation.")], value, rtol=0, atol=1e-10, msg=name)

    ends = torch.cat([tokens[:, 0], tokens[:, -1]], dim=1)
    weight, bias = golden["weights.legacy_norm.weight"], golden["weights.legacy_norm.bias"]
    logits = F.linear(
        F.layer_norm(ends, (128,), weight, bias, 1e-5), golden["weights.head.weight"], golden["weights.head.bias"]
    )
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=1e-10)
