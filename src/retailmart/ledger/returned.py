"""Files that an undo of an earlier release brought back: it staged them again, with a new key.

Today a file that returns keeps its key. The rows of the older ones have the new key in the lake, so
here the new file takes the place of the old one: it belongs to the batch that delivered it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Update, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.values import FileState

_COUNTED_ONCE = (FileState.LOADED.value, FileState.SUPERSEDED.value)


def give_back(connection: Connection, batch_id: int) -> None:
    """Let the files of a finished undo's batch belong to the batches that delivered them first."""
    files = t.files.c
    query = select(files.file_id, files.path_hash, files.sha256).order_by(files.file_id)
    query = query.where(files.batch_id == batch_id, files.state.in_(_COUNTED_ONCE))
    for file in connection.execute(query).all():
        origin = _origin(connection, file)
        if origin is None:
            continue
        if origin.state == FileState.LOADED.value:  # a later undo let this one count again
            connection.execute(_undone(file.file_id))
            continue
        connection.execute(_undone(origin.file_id))
        moved = update(t.files).where(files.file_id == file.file_id)
        connection.execute(moved.values(batch_id=origin.batch_id))
        of_origin = update(t.replays).where(t.replays.c.origin_file_id == origin.file_id)
        connection.execute(of_origin.values(origin_file_id=file.file_id))


def _origin(connection: Connection, file: Row[Any, Any, Any]) -> Row[Any, Any, Any] | None:
    """The file with this name and content that was delivered before."""
    files = t.files.c
    query = select(files.file_id, files.batch_id, files.state)
    query = query.where(
        files.path_hash == file.path_hash,
        files.sha256 == file.sha256,
        files.file_id < file.file_id,
        files.state.in_(_COUNTED_ONCE),
    )
    return connection.execute(query.order_by(files.file_id.desc()).limit(1)).first()


def _undone(file_id: int) -> Update:
    this = t.files.c.file_id == file_id
    return update(t.files).where(this).values(state=FileState.UNDONE.value)
