"""The ``crucible`` command: verbs that join by entry point, each imported only when it is called."""
