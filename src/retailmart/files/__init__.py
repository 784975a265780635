"""What lands: discover, stage a copy, check, read CSV and JSON records, archive."""
