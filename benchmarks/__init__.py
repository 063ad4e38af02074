"""The yardstick: NexusQ beside the bare loop (Kafka and Redis alone) and its peers. ``nox -s bench`` runs it."""
