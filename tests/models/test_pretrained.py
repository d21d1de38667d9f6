from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.images import read_image
from vil_tracker.models import pretrained
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model, load_official_vil, load_weights, resolve_device, save_model
from vil_tracker.models.vil import build_vil, initial_position_embedding, resize_grid

GOLDEN = Path(__file__).parents[1] / "golden" / "vil2_dim64_depth4.safetensors"
SMALL = ModelConfig(name="test", dim=32, depth=2, template_size=32, search_size=64, head_channels=16)


def small_network(**changes: object) -> ViLTrackerNet:
    torch.manual_seed(0)
    return build_network(ModelConfig(**{**SMALL.__dict__, **changes}))  # type: ignore[arg-type]


def official_names() -> dict[str, Tensor]:
    """The golden network under the library's naming, in float32, its position embedding resized to 14 × 14."""
    weights = {
        name.removeprefix("weights."): value.float()
        for name, value in load_file(GOLDEN).items()
        if name.startswith("weights.")
    }
    weights["pos_embed.embed"] = torch.randn(1, 14, 14, 64)
    return weights


def raw_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the naming of the raw files."""
    raw = {}
    for name, value in weights.items():
        if name.startswith("blocks."):
            _, pair, direction, rest = name.split(".", 3)
            index = 2 * int(pair) + (direction == "rowwise_from_bot_right")
            part, _, rest = rest.partition(".")
            rest = rest.replace("conv.", "conv1d.") if part == "layer" else rest
            name = f"xlstm.blocks.{index}.{'xlstm_norm' if part == 'norm' else 'xlstm'}.{rest}"
        elif name.startswith("norm."):
            name = f"xlstm.post_blocks_norm.{name.removeprefix('norm.')}"
        elif name.startswith("legacy_norm."):
            name = f"head.0.{name.removeprefix('legacy_norm.')}"
        elif name.startswith("head."):
            name = f"head.1.{name.removeprefix('head.')}"
        raw[name] = value
    return raw


@pytest.mark.parametrize("naming", ["library", "raw"])
def test_official_checkpoints_under_both_namings(naming: str, tmp_path: Path) -> None:
    weights = official_names()
    if naming == "library":
        path = tmp_path / "vil2.safetensors"
        save_file(weights, path)
    else:
        path = tmp_path / "vil2.th"
        torch.save({"state_dict": raw_names(weights), "epoch": 400}, path)

    backbone = build_vil(dim=64, depth=4, position_1HWD=initial_position_embedding(64, (4, 6)))
    load_official_vil(backbone, path)
    golden = load_file(GOLDEN)
    with torch.no_grad():
        backbone.pos_embed.embed.copy_(golden["weights.pos_embed.embed"])
        tokens = backbone.double().eval()(golden["image"])
    torch.testing.assert_close(tokens, golden["activation.norm"], rtol=0, atol=1e-4)  # weights went through float32

    net = build_network(ModelConfig(name="test", dim=64, depth=4, template_size=64, search_size=256, head_channels=16))
    load_weights(net, path)
    position = weights["pos_embed.embed"]
    torch.testing.assert_close(net.backbone.pos_embed.embed.data, resize_grid(position, (16, 16)))
    torch.testing.assert_close(net.template_pos_embed.embed.data, resize_grid(position, (4, 4)))
    name = "blocks.1.rowwise_from_bot_right.layer.mlstm_cell.fgate.bias"
    torch.testing.assert_close(net.backbone.state_dict()["sublayers.3.layer.mlstm_cell.fgate.bias"], weights[name])


def test_official_checkpoint_that_does_not_fit_lists_every_name(tmp_path: Path) -> None:
    weights = raw_names(official_names())
    del weights["xlstm.blocks.2.xlstm.learnable_skip"]
    weights["xlstm.blocks.2.xlstm.surprise"] = torch.zeros(1)
    weights["patch_embed.proj.bias"] = torch.zeros(65)
    path = tmp_path / "vil2.th"
    torch.save(weights, path)
    backbone = build_vil(dim=64, depth=4)
    before = backbone.sublayers[0].norm.weight.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(UserError) as error:
        load_official_vil(backbone, path)
    message = str(error.value)
    assert "missing: sublayers.2.layer.learnable_skip" in message
    assert "unused: sublayers.2.layer.surprise" in message
    assert "patch_embed.proj.bias (network (64,), file (65,))" in message
    assert "\n" not in message
    assert torch.equal(backbone.sublayers[0].norm.weight, before)  # type: ignore[union-attr, arg-type]


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.th"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(UserError, match="cannot read checkpoint"):
        load_official_vil(build_vil(dim=64, depth=4), path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_come_back_with_their_configuration(dtype: torch.dtype, tmp_path: Path) -> None:
    net, path = small_network(), tmp_path / "net.safetensors"
    save_model(net, path, {"steps": "7"}, dtype=dtype)
    loaded = load_model(path, device="cpu")
    assert loaded.config == net.config
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, net.state_dict()[name].to(dtype).float()), name
    with safetensors.safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
    assert metadata["steps"] == "7" and json.loads(metadata["config"])["dim"] == 32


def test_int8_rounds_the_large_matrices_within_their_rows(tmp_path: Path) -> None:
    net, path, again = small_network(dim=96), tmp_path / "net.safetensors", tmp_path / "again.safetensors"
    with torch.no_grad():
        net.backbone.sublayers[0].layer.proj_up.weight[1] = 0.0
        net.backbone.sublayers[0].layer.proj_up.weight[2] *= 1e-3
    save_model(net, path, dtype=torch.int8)
    stored, found = load_file(path), load_model(path, device="cpu").state_dict()
    large = [name for name, value in stored.items() if value.dtype == torch.int8]
    assert {name.split(".")[-2] for name in large} == {"proj_up"}
    for name, value in net.state_dict().items():
        if name in large:
            rounded = value.half().float()
            step = rounded.abs().amax(1, keepdim=True) / 127
            assert ((found[name] - rounded).abs() <= step * 0.5001).all(), name
        else:
            assert torch.equal(found[name], value.half().float()), name
    pretrained.add_metadata(path, again, {"steps": "7"})
    assert all(torch.equal(value, stored[name]) for name, value in load_file(again).items())
    other = small_network(dim=96)
    pretrained.load_weights(other, path)
    assert all(torch.equal(value, found[name]) for name, value in other.state_dict().items())
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del stored[f"{large[0]}.row_scale"]
    save_file(stored, path, metadata)
    with pytest.raises(UserError, match=f"int8 values of {large[0]}"):
        load_model(path, device="cpu")


def test_weights_that_overflow_are_not_saved(tmp_path: Path) -> None:
    net = small_network()
    with torch.no_grad():
        net.type_embed[0, 0] = 1e6
    with pytest.raises(UserError, match="type_embed is not finite"):
        save_model(net, tmp_path / "net.safetensors", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_model(small_network(), path)
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"not weights at all" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="net.safetensors"):
            load_model(path, device="cpu")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a weights file of this project"):
        load_model(path, device="cpu")
    save_file({"a": torch.zeros(1)}, path, {"format": "vil-tracker", "config": "[1"})
    with pytest.raises(UserError, match="configuration"):
        load_model(path, device="cpu")
    with pytest.raises(UserError, match="there is no weights file"):
        load_model(tmp_path / "absent.safetensors", device="cpu")


def test_shipped_weights_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nano.safetensors"
    save_model(small_network(), path)
    monkeypatch.setattr(pretrained, "shipped_weights", lambda: {"nano": path})
    sums = tmp_path / "SHA256SUMS"
    with pytest.raises(UserError, match="cannot verify"):
        load_model("nano", device="cpu")
    sums.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  nano.safetensors\n")
    assert load_model("nano", device="cpu").config.dim == 32
    sums.write_text(f"{'0' * 64}  nano.safetensors\n")
    with pytest.raises(UserError, match="damaged"):
        load_model("nano", device="cpu")
    with pytest.raises(UserError, match="did you mean nano"):
        load_model("nanno", device="cpu")


def test_weights_that_ship_are_intact() -> None:
    for name in pretrained.shipped_weights():
        load_model(name, device="cpu")


def test_training_may_start_from_another_grid_and_without_the_temporal_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "net.safetensors"
    source = small_network(temporal=False)
    save_model(source, path)
    net = small_network(search_size=96)
    with caplog.at_level(logging.INFO):
        load_weights(net, path)
    assert "no temporal part" in caplog.text
    torch.testing.assert_close(
        net.backbone.sublayers[1].layer.conv.weight, source.backbone.sublayers[1].layer.conv.weight
    )  # type: ignore[union-attr]
    expected = resize_grid(source.backbone.pos_embed.embed, (6, 6))
    torch.testing.assert_close(net.backbone.pos_embed.embed, expected)
    with pytest.raises(UserError, match=r"of another shape: .*head\.score"):
        load_weights(small_network(head_channels=32), path)
    with pytest.raises(UserError, match="missing: backbone.sublayers.2"):
        load_weights(small_network(depth=4), path)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:99", "meta"):
        with pytest.raises(UserError):
            resolve_device(wrong)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_saved_with_their_wrapper(wrapper: str, tmp_path: Path) -> None:
    """DataParallel and torch.compile put their own name before the network's."""
    network = small_network()
    save_model(network, tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as stored:
        metadata = stored.metadata()
    wrapped = {f"{wrapper}{name}": value for name, value in load_file(tmp_path / "a.safetensors").items()}
    save_file(wrapped, tmp_path / "b.safetensors", metadata)
    found = load_model(tmp_path / "b.safetensors", "cpu").state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "data, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    ],
)
def test_what_a_download_left_in_place_of_weights_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            load_weights(small_network(), tmp_path / name)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "a.safetensors", "cpu")
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "a.pth")
