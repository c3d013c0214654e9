#!/bin/sh
# door.sh SERVICE PORT: make the service's token if there is none, then pass the port on to the service.
set -eu
umask 077
if [ ! -s /token/token ]; then
    head -c 32 /dev/urandom | base64 | tr -d '=\n' >/token/.token
    mv /token/.token /token/token
fi
exec socat "TCP-LISTEN:$2,fork,reuseaddr,max-children=100" "TCP:$1:$2"
