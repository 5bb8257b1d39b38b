"""``python -m dae.cli``, the ``dae`` command."""

from dae.cli import main

main()
