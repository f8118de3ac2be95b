"""The report page: runs -> one HTML file that needs nothing else.

    runs --columns--> columns --tables, curves, examples--> values --render--> HTML

The page shows records and their outcomes. No model is loaded.
"""
