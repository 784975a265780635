"""The fault campaign: `make chaos`. One module a scenario, each repeatable by its seed."""
