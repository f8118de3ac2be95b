"""One model's forward pass, and the tests of what it supports."""
