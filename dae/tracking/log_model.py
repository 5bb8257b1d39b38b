"""Logging models to MLflow, with all that is needed to test, serve and judge them later."""

from __future__ import annotations

import hashlib
import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from dae import storage
from dae.schemas import TrainingDomain
from dae.tracking import provenance
from dae.tracking.client import connect
from dae.tracking.models import SHA256


def log_model(
    run_id: str, model: Any, example: np.ndarray, name: str, trained_on: TrainingDomain | None = None
) -> tuple[str, str]:
    """Log a Keras model with its signature, an input example and its training domain.

    Loaded as MLflow's ``python_function`` it is a `dae.tracking.pyfunc.Service`, in any environment with the
    packages it requires.

    Returns
    -------
    tuple of str
        The model's id and its URI ``models:/m-...``.
    """
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Unnamed: a named input would reach Keras as a dictionary.
    schema = Schema(
        [TensorSpec(np.dtype("float32"), tuple(-1 if size is None else size for size in model.input_shape))]
    )
    # MLflow puts a model into the active experiment, even if its run is in another.
    mlflow.set_experiment(experiment_id=connect().get_run(run_id).info.experiment_id)
    flavor = _KerasFlavor(example)
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
    ):  # MLflow runs the model, which prints a progress bar
        warnings.simplefilter("ignore")
        info = Model.log(
            None,
            flavor,
            name=name,
            run_id=run_id,
            model=model,
            signature=ModelSignature(inputs=schema, outputs=schema),
            input_example=example,
            pip_requirements=provenance.model_requirements(),
            metadata={"trained_on": trained_on.model_dump(mode="json")} if trained_on else None,
        )
    connect().set_logged_model_tags(info.model_id, {SHA256: flavor.sha256})
    return str(info.model_id), str(info.model_uri)


class _KerasFlavor:
    """MLflow's ``keras`` flavor, which runs on any backend, with the outputs and the digest that the smoke test compares.

    It creates the folder itself, since MLflow 3.17 stores the example in a folder that does not exist yet.
    """

    __name__ = "mlflow.keras"

    def __init__(self, example: np.ndarray) -> None:
        self.example = example
        self.sha256 = ""

    def save_model(self, path: str, model: Any, **kwargs: Any) -> None:
        import mlflow.keras

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.keras.save_model(path=path, model=model, **kwargs)
        _add_scoring(folder, kwargs["mlflow_model"])
        self.sha256 = storage.file_sha256(folder / storage.MODEL)
        np.savez(
            folder / storage.REFERENCE, noisy=self.example, restored=np.asarray(model.predict_on_batch(self.example))
        )


def _add_scoring(folder: Path, stored: Any) -> None:
    """Copy `dae.tracking.pyfunc` into a model's folder. Its ``python_function`` flavor is loaded by that copy."""
    from mlflow import pyfunc

    source = Path(__file__).with_name("pyfunc.py").read_bytes()
    # Named after its content, so that models of two releases can be loaded in one process.
    module = f"dae_scoring_{hashlib.sha256(source).hexdigest()[:8]}"
    (folder / "code").mkdir()
    (folder / "code" / f"{module}.py").write_bytes(source)
    pyfunc.add_to_model(stored, loader_module=module, code="code", conda_env="conda.yaml", python_env="python_env.yaml")
    # Then MLflow passes inputs on unchanged. By the signature it would refuse image files and other types.
    stored.signature._is_signature_from_type_hint = True
    stored.save(str(folder / "MLmodel"))
