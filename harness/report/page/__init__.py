"""The report page: runs -> one HTML file that needs nothing else.

    paths --sides--> Sides --tables, board, curves, changes, drill--> plain values --render--> HTML

Everything shown is made of records and the items beside them. No model is loaded.
"""
