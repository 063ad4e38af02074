"""``python -m nexusq_server``: the same as ``nexusq``."""

from nexusq_server.cli import main

main()
