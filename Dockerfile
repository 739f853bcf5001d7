# The image that server, receiver and worker run from:
#   prefect server start --host 0.0.0.0
#   samebits receive                      (SAMEBITS_RECEIVER_HOST=0.0.0.0)
#   samebits work --name NAME
ARG BASE=python:3.12-slim
FROM ${BASE}
RUN (command -v git && command -v make) \
    || (apt-get update && apt-get install -y --no-install-recommends git make \
        && rm -rf /var/lib/apt/lists/*)
RUN python3 -m pip --version || python3 -m ensurepip
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check 'uv>=0.9,<1'
WORKDIR /samebits
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
# The dependencies change less often than the code: a layer of their own.
COPY pyproject.toml uv.lock README.md ./
RUN python3 -m uv sync --locked --no-dev --extra redis --no-install-project
COPY . .
RUN python3 -m uv sync --locked --no-dev --extra redis
ENV PATH=/samebits/.venv/bin:$PATH
CMD ["samebits", "--help"]
