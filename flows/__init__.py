"""The story: pipeline, redeploy and their steps; the only place with @flow and @task."""

from flows.quiet import leave_out_tracebacks

leave_out_tracebacks()
