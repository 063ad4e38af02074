"""The server of NexusQ: the API that takes tasks, the workers that run them, the embedded cluster."""
