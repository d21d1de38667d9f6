from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from vil_tracker.config import MODEL_SIZES, ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext, updated_context
from vil_tracker.models.network import NetworkOutput, ViLTrackerNet, build_network, cell_coverage

SMALL = ModelConfig(
    name="test",
    dim=32,
    depth=4,
    stem="conv",
    template_size=32,
    search_size=64,
    modulation_interval=2,
    head_channels=16,
)


def network(config: ModelConfig = SMALL, *, seed: int = 0) -> ViLTrackerNet:
    """A float64 network in which no parameter has its trivial initial value."""
    torch.manual_seed(seed)
    net = build_network(config).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(config: ModelConfig = SMALL, *, batch: int = 2, templates: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    t, s = config.template_size, config.search_size
    corners = torch.rand(batch, templates, 2, dtype=torch.float64) * 0.4
    boxes = torch.cat([corners, corners + 0.4], dim=-1)
    crops = torch.randn(batch, templates, 3, t, t, dtype=torch.float64)
    return crops, boxes, torch.randn(batch, 3, s, s, dtype=torch.float64)


def a_context(grid: tuple[int, int], batch: int = 2, dim: int = 32) -> TemporalContext:
    tokens = torch.randn(batch, grid[0] * grid[1], dim, dtype=torch.float64)
    return updated_context(None, tokens, grid, torch.tensor([[50.0, 50.0, 40.0]] * batch))


def assert_same(output: NetworkOutput, expected: NetworkOutput, tolerance: float = 1e-10) -> None:
    for ours, theirs in zip(output[:4], expected[:4], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("templates", [1, 3])
@pytest.mark.parametrize("with_context", [False, True])
@torch.no_grad()
def test_cached_equals_uncached(templates: int, with_context: bool) -> None:
    net = network()
    crops, boxes, search = inputs(templates=templates)
    context = a_context((4, 4)) if with_context else None
    expected = net(crops, boxes, search, context)
    assert_same(net.forward_search(search, net.encode_templates(crops, boxes), context), expected)

    memory = net.encode_templates(crops[:, :1], boxes[:, :1])
    for index in range(1, templates):
        memory = net.encode_templates(crops[:, index : index + 1], boxes[:, index : index + 1], memory)
    assert_same(net.forward_search(search, memory, context), expected)


@torch.no_grad()
def test_cached_equals_uncached_at_full_depth_and_length() -> None:
    """24 sublayers, template 128 and search 256: sequences long enough for the chunkwise form."""
    config = dataclasses.replace(MODEL_SIZES["tiny"], dim=64, head_channels=16)
    net = network(config)
    crops, boxes, search = inputs(config, batch=1)
    expected = net(crops, boxes, search)
    assert_same(net.forward_search(search, net.encode_templates(crops, boxes)), expected)


@torch.no_grad()
def test_every_sublayer_reads_the_template() -> None:
    """The search tokens of the first sublayer (top left) and of the second (bottom right) both depend on it."""
    net = network()
    crops, boxes, search = inputs()
    outputs: list[list[Tensor]] = []
    for scale in (1.0, 2.0):
        seen: list[Tensor] = []
        handles = [
            sublayer.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out[0] - args[0]))
            for sublayer in net.backbone.sublayers
        ]
        net.forward_search(search, net.encode_templates(scale * crops, boxes))
        outputs.append(seen[4:])
        for handle in handles:
            handle.remove()
    for first, second in zip(*outputs, strict=True):
        assert (first - second).abs().amax(dim=-1).min() > 1e-9


@torch.no_grad()
def test_memory_serves_many_frames_unchanged() -> None:
    net = network()
    crops, boxes, search = inputs()
    memory = net.encode_templates(crops, boxes)
    copies = [[part.clone() for part in state] for state in memory.states]
    first = net.forward_search(search, memory)
    net.forward_search(torch.randn_like(search), memory, a_context((4, 4)))
    assert_same(net.forward_search(search, memory), first, 0)
    for state, copied in zip(memory.states, copies, strict=True):
        assert all(torch.equal(part, other) for part, other in zip(state, copied, strict=True))
    assert len(memory.states) == 4
    assert [tuple(part.shape) for part in memory.states[0]] == [(2, 4, 16, 16), (2, 4, 16), (2, 4)]


@torch.no_grad()
def test_a_batch_gives_what_each_gives_alone() -> None:
    net = network()
    crops, boxes, search = inputs(batch=3)
    output = net(crops, boxes, search)
    for index in range(3):
        one = slice(index, index + 1)
        alone = net(crops[one], boxes[one], search[one])
        assert_same(NetworkOutput(*(part[one] for part in output[:4])), alone)


@torch.no_grad()
def test_whole_sequence_flip_runs_but_has_no_memory() -> None:
    net = network(dataclasses.replace(SMALL, scan="flip"))
    crops, boxes, search = inputs(templates=2)
    output = net(crops, boxes, search)
    assert output.score_logits.isfinite().all()
    prefix = network()
    prefix.load_state_dict(net.state_dict())
    assert (prefix(crops, boxes, search).score_logits - output.score_logits).abs().max() > 1e-3
    with pytest.raises(UserError, match="scan: prefix"):
        net.encode_templates(crops, boxes)


@torch.no_grad()
def test_search_crops_of_another_size() -> None:
    net = network()
    crops, boxes, _ = inputs()
    memory = net.encode_templates(crops, boxes)
    for height, width in ((96, 96), (64, 112), (32, 48)):
        output = net.forward_search(torch.randn(2, 3, height, width).double(), memory, a_context((4, 4)))
        assert output.score_logits.shape == (2, 1, height // 16, width // 16)
        assert output.features.shape == (2, height * width // 256, 32)
        decoded, _ = net.decode(output)
        assert (decoded[:, 2:] > decoded[:, :2]).all()


def test_every_parameter_learns_on_the_second_frame_of_a_clip() -> None:
    net = network().train()
    crops, boxes, search = inputs()
    first = net(crops, boxes, search)
    where = torch.tensor([[50.0, 50.0, 40.0]] * 2)
    context = updated_context(None, first.features, (4, 4), where)
    second = net(crops, boxes, torch.randn_like(search), context)
    sum(part.square().sum() for part in second[:3]).backward()  # type: ignore[union-attr]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_no_context_is_the_identity_of_the_temporal_part() -> None:
    net = network()
    without = network(dataclasses.replace(SMALL, temporal=False))
    shared = {name: value for name, value in net.state_dict().items() if not name.startswith("temporal.")}
    without.load_state_dict(shared)
    with torch.no_grad():
        assert_same(net(*inputs_of(1)), without(*inputs_of(1)), 0)


def inputs_of(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return inputs()


@torch.no_grad()
def test_the_temporal_part_acts_after_its_sublayers_on_search_tokens_only() -> None:
    net = network()
    calls: list[int] = []
    assert net.temporal is not None
    original = net.temporal.apply_film
    net.temporal.apply_film = lambda x, index, condition: (calls.append(index), original(x, index, condition))[1]  # type: ignore[method-assign]
    crops, boxes, search = inputs()
    context = a_context((4, 4))
    net(crops, boxes, search, context)
    assert calls == [1, 3]
    memory = net.encode_templates(crops, boxes)
    assert calls == [1, 3]
    net.forward_search(search, memory, context)
    assert calls == [1, 3, 1, 3]


def test_cells_are_typed_by_the_share_that_the_box_covers() -> None:
    boxes = torch.tensor([[0.25, 0.0, 0.75, 0.5], [0.1, 0.1, 0.2, 0.2], [-1.0, -1.0, 2.0, 2.0]])
    coverage = cell_coverage(boxes, (2, 4)).view(3, 2, 4)
    torch.testing.assert_close(coverage[0], torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert coverage[1].sum().item() == pytest.approx(0.1 * 0.1 * 8)
    assert coverage[2].eq(1).all()


@torch.no_grad()
def test_the_template_box_matters() -> None:
    net = network()
    crops, boxes, search = inputs()
    assert (net(crops, boxes, search).score_logits - net(crops, boxes * 0.5, search).score_logits).abs().max() > 1e-6
    with pytest.raises(ValueError, match="boxes"):
        net(crops, boxes[:, 0], search)


@pytest.mark.parametrize("name", sorted(MODEL_SIZES))
def test_every_size_is_built(name: str) -> None:
    with torch.device("meta"):
        net = build_network(MODEL_SIZES[name])
    config = net.config
    side = config.search_size // 16
    assert net.backbone.pos_embed.embed.shape == (1, side, side, config.dim)
    assert len(net.backbone.sublayers) == config.depth
    assert net.temporal is not None and len(net.temporal.film_layers) == config.depth // config.modulation_interval


def test_training_step_under_bfloat16_autocast_is_finite() -> None:
    torch.manual_seed(0)
    net = build_network(SMALL).train()
    crops, boxes, search = (part.float() for part in inputs())
    context = updated_context(None, torch.randn(2, 16, 32), (4, 4), torch.tensor([[50.0, 50.0, 40.0]] * 2))
    with torch.autocast("cpu", torch.bfloat16):
        output = net(crops, boxes, search, context)
    assert output.score_logits.dtype == torch.float32
    sum(part.float().square().mean() for part in output[:4]).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_sublayer_is_one_graph_for_the_compiler() -> None:
    """No branch on data: template, search and memory are captured without a break."""
    torch.manual_seed(0)
    sublayer = build_network(SMALL).backbone.sublayers[1]
    tokens, regions = torch.randn(2, 20, 32), ((2, 2), (4, 4))
    captured = torch.compile(sublayer, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected, state = sublayer(tokens, regions, None, True)
        output, captured_state = captured(tokens, regions, None, True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(captured_state, state)
