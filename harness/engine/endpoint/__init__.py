"""Models behind a server: the backend that asks it, and the self-test that it must pass first."""
