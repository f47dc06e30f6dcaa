"""Training layer of Crucible in numpy: datums, ports, renderers, losses, schedules."""
