#!/bin/sh
# A script that holds as many MiB as it is told, and lets go of them at SIGUSR1.
held=$(head -c "${1}M" /dev/zero | tr '\0' x)
trap 'held=; echo "let go"' USR1
echo "ready, ${#held} bytes"
while :; do
    sleep 1 &
    wait $!
done
