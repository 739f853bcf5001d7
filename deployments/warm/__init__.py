"""The warm worker: runs are forked from a parent that has everything loaded."""
