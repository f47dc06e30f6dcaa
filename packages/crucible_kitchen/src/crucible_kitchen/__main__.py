"""``python -m crucible_kitchen``: the ``crucible`` command."""

from crucible_kitchen.cli.main import entry

if __name__ == "__main__":
    entry()
