"""Run a project on the Spark that spark-submit was told of.

    spark-submit --master spark://HOST:7077 spark_submit.py /mnt/shop --as-of 2024-04-01

Takes the options of `retailmart run` and ends with its exit codes. spark-submit hands on what is
told as stdout; with `--output json` the report is the last line of it.
"""

from __future__ import annotations

import argparse
import sys

from pyspark.sql import SparkSession

from retailmart.cli import main


def run() -> None:
    """Open spark-submit's session, then run as the command line does."""
    parser = argparse.ArgumentParser(prog="spark_submit.py", description=__doc__)
    parser.add_argument("project", help="the project's folder, which the cluster sees, too")
    given, options = parser.parse_known_args()
    # A session that is there goes before `spark:` in retailmart.yml, a Connect server excepted.
    ours = ["--set", "engine=spark", "--set", "spark.remote=null"]
    sys.argv = ["retailmart", "run", "--project", given.project, *ours, *options]
    session = SparkSession.builder.appName("retailmart").getOrCreate()
    try:
        main()
    finally:
        session.stop()


if __name__ == "__main__":
    run()
