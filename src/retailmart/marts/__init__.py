"""Marts: what they read, what is affected, build, reconcile, publish, export."""
