"""``userservice check``: compares a store with the description in docs/architecture.md, by reading alone.

Everything is read in pages, so Redis is never busy for long. A difference is read once more in one transaction, so that
a service that writes at the same time causes no false finding.
"""

from userservice_server.check.report import Finding, Report
from userservice_server.check.run import check

__all__ = ["Finding", "Report", "check"]
