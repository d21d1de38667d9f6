"""Configuration: frozen, validated dataclasses, read from and written to YAML.

A file names the sections ``model``, ``data``, ``train`` and ``track``; whatever it leaves out keeps the default of
:mod:`vil_tracker.config.sections`. ``model: {name: nano}`` starts from that size's preset. Unknown or mistyped keys are
errors that name the nearest key.
"""

from vil_tracker.config.files import (
    config_from_dict,
    config_to_dict,
    dump_config,
    load_config,
    model_config_from_dict,
    override,
)
from vil_tracker.config.sections import (
    DEFAULT_WEIGHTS,
    MODEL_SIZES,
    Config,
    DataConfig,
    ModelConfig,
    SourceConfig,
    TrackConfig,
    TrainConfig,
)

__all__ = [
    "DEFAULT_WEIGHTS",
    "MODEL_SIZES",
    "Config",
    "DataConfig",
    "ModelConfig",
    "SourceConfig",
    "TrackConfig",
    "TrainConfig",
    "config_from_dict",
    "config_to_dict",
    "dump_config",
    "load_config",
    "model_config_from_dict",
    "override",
]
