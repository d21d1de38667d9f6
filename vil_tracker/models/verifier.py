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
import math

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
_STRIDE = math.prod(stride for *_, stride in _CHANNELS)  # pixels of a patch per cell of the last convolution
_CELLS = PATCH_SIZE // _STRIDE
SCAN_STEP = PATCH_MARGIN / _CELLS  # distance of neighbouring boxes of a scan, in boxes


def scan_grid(width: int, height: int, box_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of a size (2,) all over a picture, about :data:`SCAN_STEP` of it apart: how many stand side by side and
    above each other (2,), and their centres (N, 2) in pixels, row by row.
    """
    length = np.array([width, height])
    cells = np.maximum(np.round(length / (box_size * SCAN_STEP)), 1).astype(int)
    rows, columns = np.indices((cells[1], cells[0])).reshape(2, -1)
    return cells, (np.stack([columns, rows], axis=1) + 0.5) * length / cells


def crop_patch(pixels: np.ndarray, box: np.ndarray, patches: int = 1) -> np.ndarray:
    """The patch of a box x1 y1 x2 y2 (4,) in pixels (H, W, 3) uint8 RGB; outside, the picture's edge is repeated.

    It is (PATCH_SIZE, PATCH_SIZE, 3) uint8, or ``patches`` times that along each side, of as many patches.
    """
    height, width = pixels.shape[:2]
    middle, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2 * PATCH_MARGIN * patches, 1.0)
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
    return cv2.resize(part, (patches * PATCH_SIZE, patches * PATCH_SIZE), interpolation=cv2.INTER_AREA)


class VerifierNet(nn.Module):
    """Embeds patches, and compares embeddings."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for inputs, outputs, stride in _CHANNELS:
            conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            stages += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.stages = nn.Sequential(*stages)
        self.embedding = nn.Linear(_CHANNELS[-1][1] * _CELLS**2, EMBEDDING)
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
        tensors = {
            name: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
            for name, value in self.state_dict().items()
        }
        return base64.b64encode(safetensors.torch.save(tensors)).decode("ascii")

    @staticmethod
    def from_text(text: str) -> VerifierNet:
        """The inverse of :meth:`to_text`, in evaluation mode; UserError where it is no such text."""
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
        # By PyTorch, for NumPy's threads and its own would wait for each other.
        self._hidden = copy.hidden.double().requires_grad_(False)
        self._answers, self._bias = (x.detach().double().numpy() for x in (copy.answers.weight, copy.answers.bias))

    @torch.inference_mode()
    def embed(self, patch: np.ndarray) -> np.ndarray:
        """As :meth:`VerifierNet.embed` of one patch (PATCH_SIZE, PATCH_SIZE, 3) uint8: (EMBEDDING,) float64."""
        return self._embedding(self._maps(patch).flatten(1))[0].double().numpy()

    @torch.inference_mode()
    def scan(self, picture: np.ndarray, box_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres (N, 2) of :func:`scan_grid` and embeddings (N, EMBEDDING) float64 of boxes of width and height (2,)
        in pixels all over a picture (H, W, 3) uint8 RGB, in one pass over it.

        They are a sixth of the work of patches one by one, and differ from theirs, for the convolutions see what
        surrounds a patch: compare them with :meth:`embed_in_place`.
        """
        cells, centres = scan_grid(picture.shape[1], picture.shape[0], box_size)
        scaled = cv2.resize(picture, (cells * _STRIDE).tolist(), interpolation=cv2.INTER_AREA)
        around = (_CELLS // 2) * _STRIDE  # so that the picture's outermost cells are centres as well
        return centres, self._embed_all(
            cv2.copyMakeBorder(scaled, around, around, around, around, cv2.BORDER_REPLICATE)
        )

    @torch.inference_mode()
    def embed_in_place(self, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
        """The embedding (EMBEDDING,) float64 of a box as :meth:`scan` sees it, with what surrounds it; arguments as of
        :func:`crop_patch`.
        """
        embeddings = self._embed_all(crop_patch(pixels, box, patches=3))
        return embeddings[len(embeddings) // 2]

    def _embed_all(self, picture: np.ndarray) -> np.ndarray:
        """Embeddings (N, EMBEDDING) of all patches whose cells the convolutions of a picture have, row by row."""
        cells = self._maps(picture).unfold(2, _CELLS, 1).unfold(3, _CELLS, 1)[0]  # (C, rows, columns, 3, 3)
        return self._embedding(cells.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)).double().numpy()

    def _maps(self, picture: np.ndarray) -> Tensor:
        """What the convolutions make of a picture (H, W, 3) uint8: (1, C, H / 16, W / 16)."""
        x = torch.from_numpy(picture)[None].float().sub_(127.5).div_(64.0).movedim(-1, 1)  # channels last, as it lies
        for weight, bias, stride in self._convs:
            x = F.conv2d(x, weight, bias, stride, padding=1).relu_()
        return x

    def compare(self, first: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """As :meth:`VerifierNet.compare` of embeddings (..., EMBEDDING), which are broadcast: (..., 2) logits."""
        first, seen = np.broadcast_arrays(first, seen)
        both = first * seen
        lengths = np.sqrt((first * first).sum(-1) * (seen * seen).sum(-1))
        pairs = np.concatenate([first, seen, both, np.abs(first - seen)], axis=-1)
        hidden = self._hidden(torch.from_numpy(pairs)).relu_().numpy()
        cosine = both.sum(-1) / np.maximum(lengths, 1e-8)
        return hidden @ self._answers[:, :-1].T + 4 * cosine[..., None] * self._answers[:, -1] + self._bias
