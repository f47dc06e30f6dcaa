"""Contract suites, fakes and the pytest plugin of Crucible."""
