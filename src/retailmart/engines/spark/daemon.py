"""The process that Spark forks workers from: it imports modules once a machine, not per worker.

Spark's own daemon forks a process for each task that runs at the same time. Forks of this one have
already imported what tasks need.
"""

from __future__ import annotations

import gc

import retailmart.engines.spark.tasks  # noqa: F401 - forks then have it

if __name__ == "__main__":
    from pyspark.daemon import manager

    # Forks collect garbage after each task; half of a small task's time was spent on modules.
    gc.collect()
    gc.freeze()
    manager()
