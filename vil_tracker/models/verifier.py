"""The verifier, a small network that compares two patches: is this the first frame's object, and does the box fit it?

It sees pixels rather than the tracker's features, so its errors have little in common with those of the score map,
and one verifier serves any weights of the tracker. A *patch* is what a box holds, with a margin around it, stretched to
a square. A patch is embedded once; the first frame's embedding is kept for the whole video.

After Bromley et al., "Signature Verification using a Siamese Time Delay Neural Network" (1993), with the overlap as a
second answer as in Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection" (ECCV 2018).
"""

from __future__ import annotations

import base64
import binascii

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vil_tracker.errors import UserError

PATCH_SIZE = 48  # pixels
PATCH_MARGIN = 1.4  # side of a patch in units of the box's side
EMBEDDING = 160
_CHANNELS = ((3, 24, 2), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 128, 2))  # in, out, stride
_HIDDEN = 64


def crop_patch(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The patch of a box.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        box: (4,) x1 y1 x2 y2 in pixels; may reach outside, where the picture's edge is repeated.

    Returns:
        (PATCH_SIZE, PATCH_SIZE, 3) uint8.
    """
    height, width = pixels.shape[:2]
    middle, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2 * PATCH_MARGIN, 1.0)
    # Not further out than the picture is wide: a box may be anywhere.
    low = np.clip(np.floor(middle - half), (-width, -height), (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(middle + half), low + 1, (2 * width, 2 * height)).astype(int)
    x1, y1 = np.clip(low, 0, None)
    x2, y2 = np.maximum(np.minimum(high, (width, height)), (x1 + 1, y1 + 1))
    part = pixels[min(y1, height - 1) : y2, min(x1, width - 1) : x2]
    left, top, right, bottom = x1 - low[0], y1 - low[1], high[0] - x2, high[1] - y2
    if max(left, top, right, bottom) > 0:
        above, below, before, after = (max(int(v), 0) for v in (top, bottom, left, right))
        part = cv2.copyMakeBorder(part, above, below, before, after, cv2.BORDER_REPLICATE)
    return cv2.resize(part, (PATCH_SIZE, PATCH_SIZE), interpolation=cv2.INTER_AREA)


class VerifierNet(nn.Module):
    """Embeds patches, and compares embeddings."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for inputs, outputs, stride in _CHANNELS:
            conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            stages += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.stages = nn.Sequential(*stages)
        cells = (PATCH_SIZE // 16) ** 2
        self.embedding = nn.Linear(_CHANNELS[-1][1] * cells, EMBEDDING)
        self.hidden = nn.Linear(4 * EMBEDDING, _HIDDEN)
        self.answers = nn.Linear(_HIDDEN + 1, 2)

    def embed(self, patches: Tensor) -> Tensor:
        """Patches (B, PATCH_SIZE, PATCH_SIZE, 3) uint8 to embeddings (B, EMBEDDING)."""
        x = patches.movedim(-1, 1).to(self.embedding.weight.dtype).sub(127.5).div(64.0)
        return self.embedding(self.stages(x).flatten(1))

    def compare(self, first: Tensor, seen: Tensor) -> Tensor:
        """Embeddings (B, EMBEDDING) of the target and of something else to logits (B, 2): that the two are the same
        thing, and (whose sigmoid is) the overlap to expect of the box with that thing.
        """
        cosine = F.cosine_similarity(first, seen)[:, None]
        pairs = torch.cat([first, seen, first * seen, (first - seen).abs()], dim=1)
        return self.answers(torch.cat([F.relu(self.hidden(pairs)), 4 * cosine], dim=1))

    def to_text(self) -> str:
        """Weights as base64 of a safetensors file in float16, to stand in a JSON document."""
        tensors = {
            name: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
            for name, value in self.state_dict().items()
        }
        return base64.b64encode(safetensors.torch.save(tensors)).decode("ascii")

    @staticmethod
    def from_text(text: str) -> VerifierNet:
        """The inverse of :meth:`to_text`, in evaluation mode.

        Raises:
            UserError: it is damaged, or of another architecture.
        """
        network = VerifierNet().float()  # whatever PyTorch's default is
        try:
            tensors = safetensors.torch.load(base64.b64decode(text, validate=True))
            kinds = {name: value.dtype for name, value in network.state_dict().items()}
            network.load_state_dict({name: value.to(kinds[name]) for name, value in tensors.items()})
        except (safetensors.SafetensorError, binascii.Error, ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"the verifier cannot be read ({type(error).__name__}): fit it again") from error
        return network.eval()


class FastVerifier:
    """A verifier prepared for one patch at a time on the CPU, batch norms folded into the convolutions.

    It runs there whatever the tracker runs on: the frames are there, and a patch takes a fraction of a millisecond.
    """

    def __init__(self, network: VerifierNet) -> None:
        copy = VerifierNet().float().eval()
        copy.load_state_dict(network.state_dict())
        self._convs: list[tuple[Tensor, Tensor, int]] = []
        with torch.no_grad():
            for conv, norm in zip(copy.stages[0::3], copy.stages[1::3], strict=True):
                assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
                fused = fuse_conv_bn_eval(conv, norm)
                weight = fused.weight.detach().contiguous(memory_format=torch.channels_last)
                assert fused.bias is not None
                self._convs.append((weight, fused.bias.detach(), conv.stride[0]))
        self._embedding = copy.embedding.requires_grad_(False)
        layers = (copy.hidden.weight, copy.hidden.bias, copy.answers.weight, copy.answers.bias)
        self._hidden, self._hidden_bias, self._answers, self._bias = (x.detach().double().numpy() for x in layers)

    @torch.inference_mode()
    def embed(self, patch: np.ndarray) -> np.ndarray:
        """As :meth:`VerifierNet.embed` of one patch (PATCH_SIZE, PATCH_SIZE, 3) uint8: (EMBEDDING,) float64."""
        x = torch.from_numpy(patch)[None].float().sub_(127.5).div_(64.0).movedim(-1, 1)  # channels last, as it lies
        for weight, bias, stride in self._convs:
            x = F.conv2d(x, weight, bias, stride, padding=1).relu_()
        return self._embedding(x.flatten(1))[0].double().numpy()

    def compare(self, first: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """As :meth:`VerifierNet.compare` of embeddings (..., EMBEDDING), which are broadcast: (..., 2) logits."""
        first, seen = np.broadcast_arrays(first, seen)
        both = first * seen
        lengths = np.sqrt((first * first).sum(-1) * (seen * seen).sum(-1))
        pairs = np.concatenate([first, seen, both, np.abs(first - seen)], axis=-1)
        hidden = np.maximum(pairs @ self._hidden.T + self._hidden_bias, 0.0)
        cosine = both.sum(-1) / np.maximum(lengths, 1e-8)
        return hidden @ self._answers[:, :-1].T + 4 * cosine[..., None] * self._answers[:, -1] + self._bias
