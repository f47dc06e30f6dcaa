"""A server that programs written for the Tinker SDK can talk to, over any training backend."""
