"""The verbs of a run, one a file. `pipeline` tells in which order they come."""
