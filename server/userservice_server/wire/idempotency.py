"""The layout of an idempotency record: the fingerprint of the request, then the outcome of the write."""

FINGERPRINT_BYTES = 16
TTL_SECONDS = 600  # the API promises 10 minutes
