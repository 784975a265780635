"""Stores of files: a local folder or a folder of a bucket, behind one small interface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.storage.entries import Entry, EntryKind, Store, printable
from retailmart.storage.local import LocalFolder, sync_file, sync_folder

if TYPE_CHECKING:
    from retailmart.storage.s3 import S3Access

__all__ = [
    "Entry",
    "EntryKind",
    "LocalFolder",
    "Store",
    "open_store",
    "printable",
    "sync_file",
    "sync_folder",
]


def open_store(place: str, folder: Path, access: S3Access) -> Store:
    """The store at `place`: `s3://bucket/folder`, or a path, relative ones below `folder`.

    Raises SettingsError for an S3 location without a bucket, or if the S3 packages are missing.
    """
    if not place.startswith("s3://"):
        return LocalFolder(folder / place)
    from retailmart.storage.s3 import S3Folder

    return S3Folder.at(place, access)
