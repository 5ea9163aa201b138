"""``userservice migrate``: moves a store to other servers, or to another number of partitions.

The source is marked first, so that servers reject its writes. Then users, sessions and idempotency records are copied
unchanged, page by page; a migration that was interrupted continues after the last page. The target gets its layout, and
can be opened, only when everything is copied.
"""

from userservice_server.migration.run import Endpoint, Progress, migrate

__all__ = ["Endpoint", "Progress", "migrate"]
