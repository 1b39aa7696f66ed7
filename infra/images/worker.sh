#!/bin/sh
# The worker that runs the flows, beside a Ray node without capacity: a driver joins the cluster through a node of its own
# host. Where either ends, both do, and the container is started again. Usage: worker.sh POOL
set -eu
pool=$1

ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --object-store-memory=200000000 --disable-usage-stats --block &
node=$!
prefect worker start --pool "$pool" --type process --install-policy never --with-healthcheck &
worker=$!

stop() { # the flow runs can still report what became of their work on Ray while the worker ends
  trap '' TERM INT
  kill -TERM "$worker" 2>/dev/null || true
  wait "$worker" || true
  kill -TERM "$node" 2>/dev/null || true
  wait "$node" || true
  exit 0
}
trap stop TERM INT

while kill -0 "$node" 2>/dev/null && kill -0 "$worker" 2>/dev/null; do
  sleep 1 & wait $! # a trap runs while this shell waits, not while a program runs
done
echo "worker.sh: the Ray node or the Prefect worker has ended; ending the other" >&2
kill -TERM "$worker" "$node" 2>/dev/null || true
wait
exit 1
