"""The limits and units of sessions that expire. The scripts use these constants (see store/scripts/__init__.py)."""

MICROSECONDS_A_SECOND = 1_000_000
MOST_SESSIONS = 10_000  # of a user, so that deleting the user stays a short step
COUNT_TAG = b"\x08"  # field 1, varint, of a RevokeUserSessionsResponse
