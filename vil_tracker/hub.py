"""Weights on the Hugging Face hub, and folders in its layout (extra ``hub``).

A folder or repository holds ``model.safetensors`` (an ordinary weights file of this project, configuration and
calibration inside), ``config.json`` (the same configuration, for people and search) and ``README.md`` (the model card).
Folders need no network. What was downloaded once is found in the hub's cache without one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import HfHubHTTPError

from vil_tracker.config import config_to_dict
from vil_tracker.errors import UserError, atomic_write, make_folder, write_json, writing
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.models.pretrained import HUB_FILE, load_model, save_model

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds that the hub has for its first answer
_TAGS = """\
library_name: vil-tracker
pipeline_tag: object-detection
tags: [visual-object-tracking, vision-lstm, xlstm, mlstm]
"""
_CARD = """\
# ViL-Tracker, size {name}

A single-object tracker on a bidirectional mLSTM backbone (Vision-LSTM): {parameters:.1f} million parameters, template
{template} px, search region {search} px.

```python
import vil_tracker

for index, result in vil_tracker.track("video.mp4", box=(120, 80, 64, 48), model="OWNER/NAME"):
    print(index, result.box, result.score, result.state)
```

Write here what the weights were trained on, and under which licence they may be used.
"""


def fetch_weights(hub_id: str, **options: Any) -> Path:
    """The weights file of a repository, ``owner/name`` or ``owner/name@revision``: from the cache where it is
    unchanged, else downloaded into it.

    ``options`` are :func:`huggingface_hub.hf_hub_download`'s, such as ``cache_dir`` or ``local_files_only``. UserError
    where there is no such repository or file, or no network and no copy in the cache.
    """
    name, _, revision = hub_id.partition("@")
    options = {"revision": revision or None} | options
    try:
        if not options.get("local_files_only") and not _reachable(name, options):
            options["local_files_only"] = True
        return Path(hf_hub_download(name, HUB_FILE, **options))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is neither a file nor in the cache, and the Hugging Face hub cannot be reached: check the path if "
            "it is a file's, or the name and the network if it is a repository's"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{name} is no file, and {HUB_FILE} of the repository {hub_id} cannot be had from the Hugging Face hub: "
            f"{first} (check the path if it is a file's, or the name if it is a repository's)"
        ) from error


def _reachable(name: str, options: dict[str, Any]) -> bool:
    """Whether the hub answers to one short question: without a network, a download tries for half a minute."""
    try:
        url = hf_hub_url(name, HUB_FILE, revision=options["revision"], endpoint=options.get("endpoint"))
        get_hf_file_metadata(url, token=options.get("token"), timeout=TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        return True  # an answer, which the download will get as well
    except Exception as error:  # what the hub's library raises without a network differs between its versions
        log.debug("the Hugging Face hub cannot be reached: %s", error)
        return False
    return True


def save_pretrained(network: ViLTrackerNet, folder: str | os.PathLike[str]) -> Path:
    """Write a network as a folder in the hub's layout, readable by :func:`from_pretrained`.

    An existing README.md stays as it is: it may have been written by hand. Otherwise the card is the weights' own, with
    the hub's front matter: the licence "other" that the card explains. Weights without a card get one that claims no
    licence. UserError where the folder cannot be written.
    """
    target = make_folder(folder)
    calibration = getattr(network, "calibration", None)
    save_model(network, target / HUB_FILE, {"calibration": calibration} if calibration else None)
    config = network.config
    write_json(target / "config.json", {"model_type": "vil-tracker", **config_to_dict(config)})
    if not (target / "README.md").exists():
        card = network.card or _CARD.format(
            name=config.name,
            parameters=sum(p.numel() for p in network.parameters()) / 1e6,
            template=config.template_size,
            search=config.search_size,
        )
        if not card.startswith("---\n"):  # a card with front matter came from the hub
            licence = "license: other\nlicense_name: see-model-card\nlicense_link: README.md\n" if network.card else ""
            card = f"---\n{licence}{_TAGS}---\n\n{card}"
        with atomic_write(target / "README.md", "w") as stream:
            stream.write(card)
    return target


def from_pretrained(name: str | os.PathLike[str], device: str = "auto", **options: Any) -> ViLTrackerNet:
    """A network in evaluation mode, from a folder of :func:`save_pretrained` or a repository ``owner/name``.

    ``device`` is as of :func:`vil_tracker.load_model`, ``options`` as of :func:`fetch_weights`; UserError as of both.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / HUB_FILE).is_file():
            raise UserError(f"folder {folder} holds no {HUB_FILE}: write one with save_pretrained")
        return load_model(folder / HUB_FILE, device)
    return load_model(fetch_weights(os.fspath(name), **options), device)


class HubModel(ModelHubMixin):
    """A network with the methods of the hub's models: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``.

    Example:
        >>> HubModel(network).push_to_hub("owner/name")
        >>> network = HubModel.from_pretrained("owner/name").network
    """

    def __init__(self, network: ViLTrackerNet) -> None:
        self.network = network

    def _save_pretrained(self, save_directory: Path) -> None:
        with writing(save_directory):
            save_pretrained(self.network, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None = None, **options: Any) -> HubModel:
        known = {
            key: options[key] for key in ("cache_dir", "force_download", "local_files_only", "token") if key in options
        }
        return cls(from_pretrained(model_id, options.get("device", "auto"), revision=revision, **known))
