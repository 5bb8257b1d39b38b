"""Flow runs from the command line, on Prefect's temporary server if no other is configured."""

from __future__ import annotations

import importlib
import threading
from typing import Any


def run(module: str, name: str, parameter: Any) -> Any:
    """Run a flow and return its result. The server starts in processes of its own while this process imports libraries."""
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
        except Abort as abort:  # it is a BaseException, which the caller would not report
            raise RuntimeError(str(abort)) from abort
    finally:
        importing.join()  # the import mutes standard error, and an error message may follow
