"""``userservice check``: checks that a store has the layout that docs/architecture.md describes, without writing.

The check reads the store in pages, so that no command keeps Redis busy for long. It reads each difference again in one
transaction, so that concurrent writes cause no false findings.
"""

from userservice_server.check.report import Finding, Report
from userservice_server.check.run import check

__all__ = ["Finding", "Report", "check"]
