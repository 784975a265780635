"""A feed's rows: typed columns, schema evolution, load, quarantine, replay, identity."""
