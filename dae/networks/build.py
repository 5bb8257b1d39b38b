"""Building the configured network: an image shape in, an uncompiled `keras.Model` out.

A network is a function ``(shape, seed, **options) -> keras.Model`` that has a line in `dae.extensions.NETWORKS`, or that a
configuration names as ``package.module:name``. Its options are the fields of `ModelConfig` that it has parameters for, and what
``model.options`` holds. Keras layers and `keras.ops` only, so that a stored model opens in plain Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dae.config.schema import MIN_SIDE, ConfigError, ModelConfig
from dae.extensions import NETWORKS


def build_network(
    config: ModelConfig, shape: tuple[int, int, int], precision: str = "float32", seed: int | None = None
) -> Any:
    """Return the configured network for images of a shape.

    Parameters
    ----------
    config : ModelConfig
    shape : tuple of int
        ``(H, W, C)`` of the training images. The ``unet`` takes any height and width from 8 up all the same.
    precision : str
        Keras's name of the layers' dtype policy. Weights and outputs are float32 under each.
    seed : int, optional
        Of the initial weights; else Keras draws them from Python's global random numbers, as other libraries' threads do.

    Returns
    -------
    keras.Model
        Maps noisy float32 images ``(N, H, W, C)``, unclipped, to restored ones of the same shape and type.

    Raises
    ------
    ConfigError
        If the network cannot take the shape, does not know an option, or returns something else than such a model.
    """
    require_image_shape(config, shape)
    network = NETWORKS.load(config.architecture)
    with _dtype_policy(precision):
        model = network(shape, seed, **_options(config, network))
    taken: Any = getattr(model, "input_shape", ())
    returned: Any = getattr(model, "output_shape", ())
    if len(taken) != 4 or len(returned) != 4 or (taken[3], returned[3]) != (shape[2], shape[2]):
        raise ConfigError(
            f"model.architecture {config.architecture}: must return a keras.Model that maps images (N, H, W, {shape[2]}) to "
            f"such images, received {taken or type(model).__name__} to {returned or 'nothing'}"
        )
    return model


def require_image_shape(config: ModelConfig, shape: tuple[int, int, int]) -> None:
    """Refuse an image shape ``(H, W, C)`` that the network cannot take.

    A network that takes one shape alone has it as its attribute ``image_shape``.

    Raises
    ------
    ConfigError
        Naming the rule and the shape, or an option that the network does not know.
    """
    network = NETWORKS.load(config.architecture)
    fixed = getattr(network, "image_shape", None)
    if fixed is not None and shape != fixed:
        rule = f"model.architecture {config.architecture} takes images of {_format_shape(fixed)}"
        raise ConfigError(f"{rule}, received {_format_shape(shape)}")
    if min(shape[:2]) < MIN_SIDE:
        raise ConfigError(f"images must be at least {MIN_SIDE} pixels high and wide, received {_format_shape(shape)}")
    _options(config, network)


def _options(config: ModelConfig, network: Callable[..., Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(network).parameters.values())[2:]
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    fields = config.model_dump(exclude={"architecture", "options"})
    if configured := fields.keys() & config.options.keys():
        raise ConfigError(f"model.options must not hold fields of model, received {', '.join(sorted(configured))}")
    if (unknown := config.options.keys() - set(known)) and len(known) == len(parameters):
        raise ConfigError(
            f"model.options must be parameters of {config.architecture} ({', '.join(known) or 'it has none'}), "
            f"received {', '.join(sorted(unknown))}"
        )
    return {name: value for name, value in fields.items() if name in known} | config.options


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
