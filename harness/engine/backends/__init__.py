"""Backends answer queries: in this process, or on Ray workers."""
