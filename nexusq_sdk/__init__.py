"""NexusQ for notebooks: submit a DataFrame of tasks, watch them, read the outcomes as a DataFrame."""

__version__ = "0.1.0"
