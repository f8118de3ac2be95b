"""What a run leaves behind: records, and tables made of records. No torch here."""
