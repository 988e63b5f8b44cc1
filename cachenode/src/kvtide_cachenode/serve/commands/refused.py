"""Commands of redis that this node knows and does not serve, and why."""

from typing import Final

_EXPIRY: Final = "entries live until they are evicted; use SET"
_WHOLE: Final = "values are stored and read whole; use SET and GET"
_LISTING: Final = "it would hold up everybody else; use SCAN"
_STRINGS: Final = "every value is a string"
_WATCH: Final = "there is no WATCH; MULTI and EXEC run what does not depend on what was read"
_CODE: Final = "this node runs no scripts"
_MESSAGES: Final = "this node passes no messages on"
_ADMIN: Final = "sizes, drains and status are at the admin port"

NOT_SERVED: Final = {
    _EXPIRY: "setex psetex expire pexpire expireat pexpireat getex expiretime pexpiretime",
    _WHOLE: (
        "append getrange setrange substr incr incrby incrbyfloat decr decrby getbit setbit bitcount bitop"
    ),
    _LISTING: "keys randomkey sort sort_ro",
    _STRINGS: (
        "hset hget hmset hmget hgetall hdel hlen hkeys hvals hexists lpush rpush lpop rpop llen lrange lindex"
        " sadd srem smembers sismember scard zadd zrange zscore zrem zcard zrank xadd xread xrange xlen"
        " pfadd pfcount geoadd object lcs"
    ),
    _WATCH: "watch unwatch",
    _CODE: "eval evalsha eval_ro evalsha_ro script fcall fcall_ro function",
    _MESSAGES: "subscribe psubscribe ssubscribe unsubscribe punsubscribe publish spublish pubsub monitor",
    "keys are hashes of what they name; SET the value again": "rename renamenx copy move dump restore msetnx",
    _ADMIN: "save bgsave bgrewriteaof lastsave shutdown debug slowlog latency module swapdb failover",
    "there are no replicas": "replicaof slaveof role wait waitaof psync sync replconf",
}
REFUSED: Final = {name: why for why, names in NOT_SERVED.items() for name in names.split()}
