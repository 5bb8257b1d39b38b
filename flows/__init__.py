"""Prefect flows: their tasks in reading order."""

from dae import runtime

runtime.prepare_prefect()  # the modules below import Prefect, which reads its settings then
