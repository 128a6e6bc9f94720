"""The HTTP API: the base model, every specialist and every generalist of a run, by name, in one process."""
