"""What others are told of runs: log, metrics, lineage, alerts and the dead-man's ping."""
