"""Apache Spark as an engine: it schedules, retries and places tasks; DuckDB computes in each."""
