"""Running a flow from the command line, with Prefect's temporary server where no other is configured."""

from __future__ import annotations

import importlib
import threading
from typing import Any


def run(module: str, name: str, parameter: Any) -> Any:
    """Run a flow and return its result. Its server starts, in processes of its own, while libraries are imported here."""
    from dae import runtime
    from flows.deployment import local_server

    url = local_server.start_server()
    importing = threading.Thread(target=runtime.import_keras, daemon=True)
    importing.start()
    try:
        from prefect.exceptions import Abort
        from prefect.settings import PREFECT_API_URL, temporary_settings

        flow = getattr(importlib.import_module(module), name)
        try:
            with temporary_settings({PREFECT_API_URL: url()}):
                return flow(parameter)
        except Abort as ended:  # no exception of the usual kind, since the run's state is told already
            raise RuntimeError(str(ended)) from ended
    finally:
        importing.join()  # it mutes standard error, where an error is about to be told
