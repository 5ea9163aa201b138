"""The Python client as the other side of an exchange: python metadata_peer.py write|read ADDRESS < SAMPLES.

`write` adds a user for each sample, a JSON object of names and metadata; `read` prints the same object as read back.
"""

import json
import sys

from userservice import SyncUserManager


def main(action: str, address: str) -> None:
    samples = json.load(sys.stdin)
    with SyncUserManager(address) as manager:
        if action == "write":
            for user_id, metadata in samples.items():
                manager.add(user_id=user_id, metadata=metadata)
        else:
            print(json.dumps({user_id: manager.get(user_id).metadata for user_id in samples}))


if __name__ == "__main__":
    main(*sys.argv[1:])
