"""Tests for the authors of tasks: conformance checks, static checks and golden requests."""
