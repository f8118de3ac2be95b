"""Commands that evaluate models: one task, a table, several tasks; and what tasks there are."""
