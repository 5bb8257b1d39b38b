"""The commands of a shell that is logged in, one process each, forked from one that has imported the libraries already.

What a command does, says and exits with is its own; only the seconds of importing Prefect, MLflow and Keras are saved.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def serve() -> None:
    """Run each command that standard input asks for, and answer with its exit code."""
    from dae import runtime

    runtime.configure(terminal=True)
    runtime.import_keras()
    import mlflow  # noqa: F401

    import dae.cli

    for line in iter(sys.stdin.readline, ""):
        if (child := os.fork()) == 0:
            _become(json.loads(line))
            dae.cli.main()
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(asked: dict[str, Any]) -> None:
    """Take over a command's arguments, environment, folder and files."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, asked["stdout"], None), (2, asked["stderr"], None)):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if flags is None else flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["dae", *asked["arguments"]]


if __name__ == "__main__":
    serve()
