"""The service whose workers exit at their start while the file CANARY exists: `python exiting.py serve …`."""

import os
from pathlib import Path

if __name__ == "__mp_main__" and Path(os.environ["CANARY"]).exists():  # a worker
    os._exit(7)

if __name__ == "__main__":
    from userservice_server import cli

    cli.main()
