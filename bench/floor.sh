#!/bin/sh
# The floor: what one pipeline takes at least, as a script that a person would write, with the CLI.
# usage: floor.sh REPOSITORY BRANCH IMAGE PORT CHANNEL
set -eu
repository=$1 branch=$2 image=$3 port=$4 channel=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet --depth 1 --branch "$branch" "file://$repository" "$work"
sha=$(git -C "$work" rev-parse HEAD)
"${DOCKER:-docker}" build --quiet --build-arg BASE=samebits/python:local \
    --tag "$image:$sha" "$work" >/dev/null
docker run --rm "$image:$sha" make test >/dev/null 2>&1
docker push --quiet "$image:$sha" >/dev/null
docker rm --force bench-floor >/dev/null 2>&1 || true
docker run --detach --name bench-floor --label samebits.bench=floor \
    --publish "127.0.0.1:$port:8000" "$image:$sha" >/dev/null
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do sleep 0.02; done
echo "$sha is live" >>"$channel"
