"""One training client over several processes: the first leads, the others follow it command by command.

Nothing here is imported before a process finds itself one of several.
"""
