"""How torchvision and timm prepare the images of their models, asked of the installed libraries.

Only their registries are read: no weights are downloaded, and no model is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mlserve.distributions import install_command, not_installed
from mlserve.errors import PluginError, UsageError, bounded, reason_of
from mlserve.hints import did_you_mean


def preprocessing_of(library: str, name: str) -> Mapping[str, Any]:
    """Return what `torchvision` or `timm` says about a model. Raises PluginError and UsageError."""
    return _torchvision(name) if library == "torchvision" else _timm(name)


def _torchvision(name: str) -> Mapping[str, Any]:
    """Return the transforms of `ResNet50_Weights.IMAGENET1K_V2`, or of the default of `resnet50`.

    They are the attributes of torchvision's `ImageClassification`, and `categories`.
    """
    models = _imported("torchvision.models", "torchvision")
    weights = _weights(models, name)
    preset = weights.transforms()
    if type(preset).__name__ != "ImageClassification":
        raise UsageError(
            f"torchvision:{name} prepares {type(preset).__name__}, not images to classify",
            hint="give the weights of a classifier, such as torchvision:resnet50",
        )
    names = ("crop_size", "resize_size", "mean", "std")
    return {
        **{each: getattr(preset, each) for each in names},
        "interpolation": preset.interpolation.value,
        "categories": weights.meta.get("categories", ()),
    }


def _weights(models: Any, name: str) -> Any:
    """Return the entry of torchvision's weights. Raises UsageError for an unknown name."""
    try:
        return models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        known = models.list_models()
        raise UsageError(
            f"torchvision has no weights {bounded(name)!r}: {reason_of(error)}",
            hint=f"{did_you_mean(name, known, 'torchvision:')}give a model, such as "
            "torchvision:resnet50, or weights, such as torchvision:ResNet50_Weights.IMAGENET1K_V2",
        ) from error


def _timm(name: str) -> Mapping[str, Any]:
    """Return timm's data configuration of `resnet50`, or of a tag such as `resnet50.a1_in1k`."""
    timm = _imported("timm", "timm")
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise UsageError(
            f"timm has no pretrained model {bounded(name)!r}: {reason_of(error)}",
            hint=f"{did_you_mean(name, timm.list_models(), 'timm:')}"
            "`timm.list_pretrained()` lists them",
        ) from error
    data: Mapping[str, Any] = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    return data


def _imported(module: str, library: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise _broken(library, error) from error
        hint = install_command(f"mlserve-torch[{library}]")
        raise not_installed(f"--preprocessor {library}:...", library, hint=hint) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise _broken(library, error) from error


def _broken(library: str, error: Exception) -> PluginError:
    return PluginError(
        f"{library} is installed but does not import: {reason_of(error)}",
        hint=f"install {library} from where torch came from, as both must be built alike: "
        f"{install_command(f'mlserve-torch[{library}]')}",
    )
