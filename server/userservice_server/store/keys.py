"""The keys in Redis. docs/architecture.md shows them in one table.

Every key of a partition has the hash tag of the partition, so that on a cluster all keys of a partition are on one
node, and a script can use them together. A store with several partitions has a copy of the layout in each partition,
because the scripts of a partition check it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from userservice_server.domain import ports
from userservice_server.store.partitions import tags
from userservice_server.wire import ids

LAYOUT_VERSION = 1
MAINTAINED_LAYOUT_VERSION = 2
"""The version of the layout of a store with a feed or an e-mail index, which earlier servers would not maintain."""
LAYOUT_VERSIONS = (LAYOUT_VERSION, MAINTAINED_LAYOUT_VERSION)
FILLING, COMPLETE = b"filling", b"complete"
"""The states of an e-mail index in the layout."""
NOTICE_SECONDS = 2.0  # within this time, servers of an earlier version detect the new version of the layout
MAX_PARTITIONS = ids.PARTITIONS


@dataclass(frozen=True, slots=True)
class Table:
    """One table of records: a sorted set id → record, and a hash key → id. The key is the user_id or session_id."""

    rows: bytes
    index: bytes
    last_id: bytes  # newest id of the partition
    store_id: bytes  # key of the store's id in the partition; every write checks it
    layout: bytes  # key of the layout; every write checks that it exists
    session_count: bytes  # key of the number of sessions in the partition
    expiry_queue: bytes  # the users of the partition who have sessions that expire
    emails: bytes  # key of the first set of the e-mail index: the users by the keys of their addresses
    shared_emails: bytes  # key of the second set of the e-mail index: the users of shared keys
    feed: bytes  # key of the feed of changes of the partition, and name of the channel that announces entries
    request_prefix: bytes  # the start of the keys of idempotency records
    import_prefix: bytes  # the start of the keys of imports
    import_errors_prefix: bytes  # the start of the keys of the row errors of imports
    partition: int
    owner: str = ""  # the user_id, if the records are the sessions of a user
    owner_index: bytes = b""
    session_expiry: bytes = b""  # when the sessions of the owner expire

    @property
    def email_index(self) -> tuple[bytes, bytes]:
        """The keys of both sets of the e-mail index, as the scripts expect them."""
        return self.emails, self.shared_emails


def own_table(table: ports.Table) -> Table:
    """Returns the table behind a handle, which is the handle itself: tables come from ``RedisStore.tables``."""
    if not isinstance(table, Table):
        raise TypeError("the table does not belong to this store")
    return table


def role_of(key: bytes, prefix: str) -> tuple[str, bytes]:
    """Returns what a key of a partition contains, such as ``users``, and the rest of its name: a user_id or an id."""
    _, _, rest = key.removeprefix(f"{prefix}:".encode()).partition(b":")
    role, _, owner_or_id = rest.partition(b":")
    return role.decode(errors="replace"), owner_or_id


class Keys:
    """Returns the names of all keys under one prefix.

    Attributes:
        layout: key of the layout of the store.
        partitions: number of partitions.
    """

    def __init__(self, prefix: str, partitions: int) -> None:
        self.layout = f"{prefix}:layout".encode()
        self.partitions = partitions
        self._prefix = prefix
        self._tags = [f"{prefix}:{{{tag}}}" for tag in tags(partitions)]
        self._users = [self._users_table(partition) for partition in range(partitions)]

    def users(self, user_id: str) -> Table:
        """Returns the table that holds this user."""
        return self._users[zlib.crc32(user_id.encode()) % self.partitions]

    def by_partition(self, user_ids: Sequence[str]) -> "list[tuple[Table, list[int]]]":
        """Returns the tables that hold these users, and for each table the positions of its users in ``user_ids``."""
        positions: dict[int, list[int]] = {}
        for position, user_id in enumerate(user_ids):
            positions.setdefault(zlib.crc32(user_id.encode()) % self.partitions, []).append(position)
        return [(self._users[partition], found) for partition, found in positions.items()]

    def all_users(self) -> list[Table]:
        """Returns the tables of users of all partitions."""
        return self._users

    def sessions(self, user_id: str) -> Table:
        """Returns the table of the sessions of this user."""
        users = self.users(user_id)
        tag = self._tags[users.partition]
        return Table(
            rows=f"{tag}:sessions:{user_id}".encode(),
            index=f"{tag}:session_ids:{user_id}".encode(),
            last_id=users.last_id,
            store_id=users.store_id,
            layout=users.layout,
            session_count=users.session_count,
            expiry_queue=users.expiry_queue,
            emails=users.emails,
            shared_emails=users.shared_emails,
            feed=users.feed,
            request_prefix=users.request_prefix,
            import_prefix=users.import_prefix,
            import_errors_prefix=users.import_errors_prefix,
            partition=users.partition,
            owner=user_id,
            owner_index=users.index,
            session_expiry=f"{tag}:session_expiry:{user_id}".encode(),
        )

    def _users_table(self, partition: int) -> Table:
        tag = self._tags[partition]
        return Table(
            rows=f"{tag}:users".encode(),
            index=f"{tag}:user_ids".encode(),
            last_id=f"{tag}:last_id".encode(),
            store_id=f"{tag}:store_id".encode(),
            layout=self.layout if self.partitions == 1 else f"{tag}:layout".encode(),
            session_count=f"{tag}:session_count".encode(),
            expiry_queue=f"{tag}:expiry".encode(),
            emails=f"{tag}:emails".encode(),
            shared_emails=f"{tag}:shared_emails".encode(),
            feed=f"{tag}:feed".encode(),
            request_prefix=f"{tag}:request:".encode(),
            import_prefix=f"{tag}:import:".encode(),
            import_errors_prefix=f"{tag}:import_errors:".encode(),
            partition=partition,
        )
