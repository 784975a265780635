"""The steps of a run, one a file. `pipeline` defines their order."""
