"""The outside world, one room for each system; the only place that imports an SDK."""
