"""Nightly job: writes all users to a file of JSON lines, and continues after an interruption.

Usage: python export_users.py FILE [--address HOST:PORT]

While the job runs, FILE.part holds the users and FILE.cursor the position up to which FILE.part is complete. If the job
is interrupted, the next run continues there: each user that exists throughout both runs is in the file exactly once. At
the end, FILE.part is renamed to FILE.
"""

import argparse
import json
import os
from pathlib import Path

from userservice import SyncUserManager

CHUNK_SIZE = 1000


def position(cursor_file: Path) -> tuple[int, int]:
    """Returns the cursor and the size of the part file that belong together; (0, 0) for a new export."""
    if not cursor_file.exists():
        return 0, 0
    cursor, size = cursor_file.read_text().split()
    return int(cursor), int(size)


def save_position(cursor_file: Path, cursor: int, size: int) -> None:
    """Replaces the cursor file in one step, so that an interruption leaves the old or the new position."""
    temporary = cursor_file.with_suffix(".tmp")
    temporary.write_text(f"{cursor} {size}\n")
    temporary.replace(cursor_file)


def export(address: str, file: Path) -> int:
    """Exports all users; returns how many this run wrote."""
    part, cursor_file = file.with_name(f"{file.name}.part"), file.with_name(f"{file.name}.cursor")
    cursor, size = position(cursor_file)
    written = 0
    with SyncUserManager(address) as users, part.open("r+b" if size else "wb") as out:
        out.truncate(size)  # lines behind the position belong to a chunk that was not completed
        out.seek(size)
        for chunk in users.list_chunked(chunk_size=CHUNK_SIZE, cursor=cursor):
            for user in chunk:
                out.write(
                    json.dumps({"user_id": user.user_id, "email": user.email, "metadata": user.metadata}).encode()
                )
                out.write(b"\n")
            out.flush()
            os.fsync(out.fileno())
            written += len(chunk)
            if chunk.next_cursor:
                save_position(cursor_file, chunk.next_cursor, out.tell())
    part.replace(file)
    cursor_file.unlink(missing_ok=True)
    return written


def main() -> None:
    """Runs the job."""
    parser = argparse.ArgumentParser(description="Exports all users to a file of JSON lines.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--address", default="localhost:50051")
    arguments = parser.parse_args()
    print(f"{export(arguments.address, arguments.file)} users written to {arguments.file}")


if __name__ == "__main__":
    main()
