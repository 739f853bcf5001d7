"""The story: pipeline, redeploy and their steps; the only place with @flow and @task."""

from blocks.process import end_with_worker
from flows.quiet import leave_out_tracebacks

end_with_worker()
leave_out_tracebacks()
