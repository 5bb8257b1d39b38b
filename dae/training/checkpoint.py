"""What training leaves behind after each epoch: the last and the best model and the history, replaced atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dae import storage
from dae.config.schema import TrainConfig

History = list[dict[str, float]]


class CheckpointError(RuntimeError):
    """A checkpoint belongs to another configuration, or cannot be read."""


@dataclass
class Checkpoint:
    """The state of one training in a folder: ``state.json`` names the files that count, whatever else lies there.

    Attributes
    ----------
    folder : Path
    config_digest : str
    history : list of dict
        One row a finished epoch.
    """

    folder: Path
    config_digest: str
    history: History = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, config_digest: str) -> Self:
        """Return the checkpoint in a folder, empty if there is none.

        Raises
        ------
        CheckpointError
            If it cannot be read or was made under another configuration.
        """
        state_path = folder / "state.json"
        if not state_path.is_file():
            return cls(folder, config_digest)
        try:
            state = json.loads(state_path.read_text())
            checkpoint = cls(folder, state["config_digest"], state["history"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{state_path}: must be the state of a training; found {error}") from error
        if checkpoint.config_digest != config_digest:
            raise CheckpointError(
                f"{folder}: a training resumes under its own configuration, digest {checkpoint.config_digest[:12]}; "
                f"received one of digest {config_digest[:12]}"
            )
        return checkpoint

    @property
    def best_epoch(self) -> int:
        """The epoch, from 0, of the lowest validation MSE; the earliest of equals."""
        return min(range(len(self.history)), key=lambda epoch: self.history[epoch]["val_mse"])

    def finished(self, config: TrainConfig) -> bool:
        """Tell whether no epoch is left to train."""
        epochs = len(self.history)
        stopped = bool(epochs) and config.patience is not None and epochs - 1 - self.best_epoch >= config.patience
        return epochs >= config.epochs or stopped

    def save(self, model: Any, row: dict[str, float]) -> None:
        """Store the model after an epoch, then name it in the state, then delete the files that no longer count."""
        self.folder.mkdir(parents=True, exist_ok=True)
        model.save(self._file(len(self.history)))
        self.history.append(row)
        state = {"config_digest": self.config_digest, "history": self.history}
        storage.write_text(self.folder / "state.json", json.dumps(state))
        counted = {self._file(len(self.history) - 1), self._file(self.best_epoch)}
        for file in set(self.folder.glob("*.keras")) - counted:
            file.unlink()

    def load_last(self) -> Any | None:
        """Return the model as it was after the last finished epoch, optimizer and all; None before the first."""
        return self._load(len(self.history) - 1) if self.history else None

    def load_best(self) -> Any:
        """Return the model of the best epoch, without its optimizer."""
        return self._load(self.best_epoch, compiled=False)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.keras"

    def _load(self, epoch: int, *, compiled: bool = True) -> Any:
        import keras

        return keras.saving.load_model(self._file(epoch), safe_mode=True, compile=compiled)
