"""Prove that the lake and the database hold what the definitions make of the data."""
