"""Rules of a baseline: how they are written, what they decide, and which verdicts fail a build."""
