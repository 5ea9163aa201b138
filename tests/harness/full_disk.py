"""The service on a full disk: `python full_disk.py serve …`.

Standard error is /dev/full. A test limits the size of files, so that the audit log cannot be written. The audit log
keeps 10 lines that wait, not 100 000, before it drops lines.
"""

import os

from userservice_server import cli
from userservice_server.observability import audit_log

audit_log._MAX_LINES = 10

if __name__ == "__main__":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    cli.main()
