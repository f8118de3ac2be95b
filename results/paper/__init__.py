"""Published numbers, typed once; data only."""
