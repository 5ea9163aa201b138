"""The limits of shared calls, for the asyncio and the blocking version. `gathering.ts` has the same values."""

MOST_NAMES = 100
"""Maximum number of requests that share a call."""

MOST_RUNNING = 1
"""While this number of calls runs, further requests wait."""

PATIENCE = 0.02
"""Seconds after which a running call no longer delays other requests."""
