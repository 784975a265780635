"""Run a project as an AWS Glue 5 job. Its parameters:

--project s3://BUCKET/FOLDER   retailmart.yml, feeds, tables, marts; needed
--as_of 2024-04-01             the moment the marts are computed for; default now
--secret NAME                  in Secrets Manager: a JSON object of variables such as MYSQL_PASSWORD

A job that could not be done fails with the message that the command line would show.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from awsglue.utils import getResolvedOptions

from retailmart import OpenProject, SettingsError, open_project

# Whatever retailmart.yml says, the job's own Spark does the work.
SPARK = {"master": None, "remote": None}


def main() -> None:
    """Fetch the project, run it, print the report."""
    given = options()
    if "secret" in given:
        os.environ.update(variables(given["secret"]))
    with tempfile.TemporaryDirectory(prefix="retailmart-") as folder:
        fetch(given["project"], Path(folder))
        opened = open_project(folder, {"engine": "spark", "spark": SPARK})
        expect_nothing_here(opened)
        as_of = moment(given["as_of"]) if "as_of" in given else None
        print(json.dumps(opened.run(as_of).to_dict(), default=str))


def options() -> dict[str, str]:
    """The job's parameters; Glue has no optional ones, so only those that are there are asked."""
    optional = [name for name in ("as_of", "secret") if f"--{name}" in sys.argv]
    found: dict[str, str] = getResolvedOptions(sys.argv, ["project", *optional])
    return found


def variables(secret: str) -> dict[str, str]:
    """What a secret says, as variables of the environment."""
    answer = boto3.client("secretsmanager").get_secret_value(SecretId=secret)
    return {name: str(value) for name, value in json.loads(answer["SecretString"]).items()}


def fetch(place: str, folder: Path) -> None:
    """Copy what lies below an S3 place into a folder; what names no file is left out."""
    parts = urlsplit(place)
    prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix)
    for page in pages:
        for found in page.get("Contents", ()):
            path = folder / found["Key"].removeprefix(prefix)
            if not found["Key"].endswith("/"):
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(parts.netloc, found["Key"], str(path))


def expect_nothing_here(opened: OpenProject) -> None:
    """SettingsError where something would be kept on a machine that is gone after the job."""
    settings = opened.project.settings
    here = [
        f"{name}: {place} would be gone with the job"
        for name in ("landing", "lake", "archive", "database")
        if not (place := getattr(settings, name)).startswith(("s3://", "mysql://"))
    ]
    if here:
        raise SettingsError(here, "Name places in S3 and a database in MySQL in retailmart.yml")


def moment(text: str) -> datetime:
    """A date or time in ISO form; UTC where it names no zone."""
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
