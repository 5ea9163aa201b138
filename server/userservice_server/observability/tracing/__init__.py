"""Traces with OpenTelemetry. Only settings.py may be imported without the extra ``otel``."""
