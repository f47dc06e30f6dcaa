"""Contract suites: one per port; every adapter's tests inherit its port's suite."""
