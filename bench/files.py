"""Measure a batch of many small files, from landing to raw.

Prints one JSON object: files a second in each try.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

FILES: Final = 2_000
TRIES: Final = 3
ROWS: Final = 10
STEPS: Final = ("discover", "copy", "check", "stage", "load")
HEADER: Final = (
    "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"
)


def drop(landing: Path, files: int) -> None:
    """Files of a few sales each, no two alike."""
    for number in range(files):
        rows = [
            f"{number},{row % 5},tea,2024-01-{row + 1:02d},{row},{row + 1}.25,1,{row + 1}.25"
            for row in range(ROWS)
        ]
        (landing / f"sales_{number:05d}.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def main() -> None:
    """Command line."""
    from retailmart import open_project
    from retailmart.template import write_project

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    speeds = []
    with tempfile.TemporaryDirectory(prefix="bench-files-", dir=options.work) as work:
        for number in range(TRIES):
            folder = Path(work) / str(number)
            write_project(folder, sample=False)
            for path in [*folder.glob("marts/*"), *folder.glob("tables/*")]:
                path.unlink()
            feed = folder / "feeds" / "sales.yml"
            kept = [line.split(", references")[0] + "}" if ", references" in line else line
                    for line in feed.read_text().splitlines()]  # fmt: skip
            feed.write_text("\n".join(kept) + "\n")
            (folder / "retailmart.yml").write_text("sources: {}\n")
            drop(folder / "landing", options.files)
            report = open_project(folder).run()
            if report.rows("loaded") != options.files * ROWS:
                sys.exit(f"{report.rows('loaded')} rows were loaded")
            speeds.append(options.files / sum(report.seconds[step] for step in STEPS))
    print(json.dumps({"files": speeds}))


if __name__ == "__main__":
    main()
