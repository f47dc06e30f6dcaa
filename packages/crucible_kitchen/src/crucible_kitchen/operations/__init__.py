"""The operations: one table from which every interface is made."""
