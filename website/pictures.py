"""Takes the pictures of docs/report.md from the sample shop's report: `make pictures`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.support.services.chromium import picture_of, printed

from retailmart.api import create_project, open_project

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"


def main() -> None:
    """Make the sample's report, and show it on a wide screen, on a phone and on paper."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "demo"
        create_project(shop, sample=True)
        opened = open_project(shop)
        opened.run(datetime(2024, 4, 1, tzinfo=UTC))
        page = Path(opened.report().path)
        FOLDER.mkdir(exist_ok=True)
        picture_of(page, FOLDER / "report-desktop.png", 1200, 2350)
        picture_of(page, FOLDER / "report-phone.png", 500, 1800, dark=True)
        paper = Path(folder) / "report.pdf"
        printed(page, paper)
        if shutil.which("pdftoppm"):  # of Debian's poppler-utils
            to = FOLDER / "report-print"
            command = [
                "pdftoppm",
                "-png",
                "-r",
                "70",
                "-f",
                "2",
                "-singlefile",
                str(paper),
                str(to),
            ]
            subprocess.run(command, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
