"""A build step of ``prefect.yaml``, so that a configuration is written only once, in its file in ``configs/``."""

from __future__ import annotations

from typing import Any

from dae import storage
from dae.config import loading


def configuration(file: str) -> dict[str, Any]:
    """Return a configuration file as a deployment's parameter, with all defaults.

    A relative path starts at the project's folder.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a value breaks a rule.
    """
    return {"config": loading.load(storage.project_home() / file).model_dump(mode="json")}
