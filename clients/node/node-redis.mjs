import { createClient, createCluster, RESP_TYPES } from "redis";
import { run } from "./checks.mjs";
import { ca, host, isCluster, password, port, protocol } from "./settings.mjs";

const socket = { host, port, reconnectStrategy: 50, ...(ca && { tls: true, ca }) };
const options = { password, RESP: protocol };
const redis = isCluster
  ? createCluster({ rootNodes: [{ socket: { host, port } }], defaults: { ...options, socket: { reconnectStrategy: 50 } } })
  : createClient({ ...options, socket });
redis.on("error", () => {});
await redis.connect();
const binary = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });

function queue(pairs) {
  const queued = binary.multi();
  pairs.forEach(([key, value]) => queued.set(key, value));
  pairs.forEach(([key]) => queued.get(key));
  return queued;
}

await run({
  set: (key, value) => redis.set(key, value),
  get: (key) => binary.get(key),
  mset: (pairs) => redis.mSet(pairs),
  mget: (keys) => binary.mGet(keys),
  del: (keys) => redis.del(keys),
  exists: (keys) => redis.exists(keys),
  pipeline: async (pairs) => (await queue(pairs).execAsPipeline()).slice(pairs.length),
  transaction: async (pairs) => (await queue(pairs).exec()).slice(pairs.length),
  scan: async (MATCH) => {
    const nodes = isCluster ? await Promise.all(redis.masters.map((master) => redis.nodeClient(master))) : [redis];
    const keys = [];
    for (const node of nodes) for await (const some of node.scanIterator({ MATCH, COUNT: 10 })) keys.push(...some);
    return keys;
  },
});
