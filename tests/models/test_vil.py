from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vil_tracker.models.vil import (
    PositionEmbedding,
    ViL,
    ViLLayer,
    build_vil,
    initial_position_embedding,
    reverse_regions,
)

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


@pytest.mark.parametrize(
    ("dim", "depth", "parameters"), [(192, 24, 6_005_760), (384, 24, 22_628_160), (768, 24, 87_723_456)]
)
def test_parameter_counts_are_the_official_ones(dim: int, depth: int, parameters: int) -> None:
    with torch.device("meta"):
        model = build_vil(dim=dim, depth=depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_initialisation_follows_the_reference() -> None:
    torch.manual_seed(0)
    layer = ViLLayer(192)
    for weight, std in (
        (layer.proj_up.weight, (2 / (5 * 192)) ** 0.5),
        (layer.q_proj.weight, (2 / (5 * 192)) ** 0.5),
        (layer.proj_down.weight, 2 / 192**0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert layer.learnable_skip.eq(1).all()
    assert layer.mlstm_cell.igate.weight.eq(0).all() and layer.mlstm_cell.fgate.weight.eq(0).all()
    torch.testing.assert_close(layer.mlstm_cell.fgate.bias, torch.tensor([3.0, 4.0, 5.0, 6.0]))


def perturbed(model: nn.Module) -> nn.Module:
    """Random values for what starts at zero or one, so that no parameter hides behind its initial value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_both_gates_are_the_unfolded_maps_of_q_k_v() -> None:
    layer = perturbed(ViLLayer(32)).double()
    assert isinstance(layer, ViLLayer)
    a, xm = torch.randn(2, 9, 64).double(), torch.randn(2, 9, 64).double()

    def dense(projection: nn.Module, x: Tensor) -> Tensor:
        return x @ torch.block_diag(*projection.weight).T + projection.bias  # type: ignore[misc]

    qkv = torch.cat([dense(layer.q_proj, a), dense(layer.k_proj, a), dense(layer.v_proj, xm)], dim=-1)
    i, f = layer._gates(a, xm)
    torch.testing.assert_close(i, layer.mlstm_cell.igate(qkv).transpose(1, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(f, layer.mlstm_cell.fgate(qkv).transpose(1, 2), rtol=0, atol=1e-12)
    q, _ = layer._map(a, layer.q_proj, layer.k_proj)
    expected = dense(layer.q_proj, a).view(2, 9, 4, 16).transpose(1, 2)
    torch.testing.assert_close(q, expected, rtol=0, atol=1e-12)


def test_reversal_stays_inside_each_region() -> None:
    x = torch.arange(10.0)[None, :, None]
    assert reverse_regions(x, ((2, 2), (1, 2), (2, 2))).flatten().tolist() == [3, 2, 1, 0, 5, 4, 9, 8, 7, 6]


@pytest.mark.parametrize("stem", ["patch", "conv", "mobile"])
def test_a_batch_gives_what_its_images_give_alone(stem: str) -> None:
    torch.manual_seed(2)
    model = build_vil(dim=32, depth=2, stem=stem).double().train()
    images = torch.randn(3, 3, 32, 64).double()
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=0, atol=1e-12)


def test_position_embedding_is_resized_in_two_dimensions() -> None:
    rows = torch.linspace(0, 1, 14)[None, :, None, None].expand(1, 14, 14, 3)
    resized = PositionEmbedding(rows)((7, 28)).view(7, 28, 3)
    torch.testing.assert_close(resized, resized[:, :1].expand_as(resized))
    assert (resized[1:, 0, 0] > resized[:-1, 0, 0]).all()
    same = PositionEmbedding(rows)((14, 14))
    torch.testing.assert_close(same, rows.flatten(1, 2), rtol=0, atol=0)


def test_gradient_checkpointing_changes_nothing() -> None:
    torch.manual_seed(3)
    model = build_vil(dim=32, depth=3).double().train()
    image = torch.randn(1, 3, 32, 32).double()
    gradients = []
    for enabled in (False, True):
        model.grad_checkpointing = enabled
        model.zero_grad()
        model(image).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_drop_path_rises_with_depth_and_rests_in_evaluation() -> None:
    torch.manual_seed(4)
    model = build_vil(dim=32, depth=3, drop_path=0.4)
    rates = [getattr(sublayer.drop_path, "drop_prob", 0.0) for sublayer in model.sublayers]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    image = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))
