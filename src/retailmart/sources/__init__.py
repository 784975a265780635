"""The shop's own tables: read, detect changes, keep versions of rows."""
