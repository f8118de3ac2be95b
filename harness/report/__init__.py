"""What is made of records: the report page, plots, and files for CI systems."""
