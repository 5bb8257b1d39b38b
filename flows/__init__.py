"""Prefect flows. Each lists its tasks in the order in which they run."""

from dae import runtime

runtime.prepare_prefect()  # the modules of this package import Prefect, which reads its settings at import
