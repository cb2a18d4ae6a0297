# Starts Redis with its one user. The password comes by the environment and goes in by standard input: on the command
# line every process list would show it.
set -eu
if [ "${#REDISCLI_AUTH}" -lt 16 ] || [ -n "$(printf %s "$REDISCLI_AUTH" | tr -d 'A-Za-z0-9')" ]; then
  echo "REDIS_PASSWORD in the secret affinity-secrets must be 16 or more letters and digits: openssl rand -hex 24" >&2
  exit 2
fi
exec redis-server /usr/local/etc/redis/redis.conf - <<END
user default off
user affinity on >$REDISCLI_AUTH $(sed "s/NAMESPACE/$AFFINITY_NAMESPACE/g" /usr/local/etc/redis/redis.rights)
maxmemory $REDIS_MAXMEMORY
END
