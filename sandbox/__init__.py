"""The sandbox: a whole NexusQ to try things out in, on kind, on docker compose, or as plain processes.

`python -m sandbox` is what ``nox -s sandbox`` runs. Not part of the package that is installed.
"""
