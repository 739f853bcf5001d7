"""The rules of the pipeline: pure values and functions, without I/O, an SDK or Prefect."""
