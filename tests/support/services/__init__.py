"""Real services for tests: a database server, an S3 server, and proxies that break the way."""
