#!/bin/sh
# The steps of a pipeline, as a script that a person would write, with the CLI.
# usage: steps.sh STEP..., with REPOSITORY BRANCH IMAGE PORT WORK FIRST CHANNEL in the environment
set -eu
docker=${DOCKER:-docker}

begin() { echo "$BRANCH $(date +%s.%N)" >>"$FIRST"; }
clone() { git clone --quiet --depth 1 --branch "$BRANCH" "file://$REPOSITORY" "$WORK"; }
build() {
    "$docker" build --quiet --build-arg BASE=samebits/python:local --tag "$IMAGE" "$WORK" >/dev/null
}
run_tests() { "$docker" run --rm "$IMAGE" make test >/dev/null 2>&1; }
publish() { "$docker" push --quiet "$IMAGE" >/dev/null; }
deploy() {
    "$docker" rm --force "bench-$PORT" >/dev/null 2>&1 || true
    "$docker" run --detach --name "bench-$PORT" --publish "127.0.0.1:$PORT:8000" "$IMAGE" >/dev/null
    until curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/health"; do sleep 0.02; done
}
tell() { echo "$BRANCH is live" >>"$CHANNEL"; }

for step; do "$step"; done
