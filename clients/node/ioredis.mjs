import Redis from "ioredis";
import { run } from "./checks.mjs";
import { ca, host, isCluster, password, port } from "./settings.mjs";

const options = { password, tls: ca && { ca }, retryStrategy: () => 50, maxRetriesPerRequest: null };
const redis = isCluster ? new Redis.Cluster([{ host, port }], { redisOptions: options }) : new Redis({ host, port, ...options });
redis.on("error", () => {});

const replies = async (queued) =>
  (await queued.exec()).map(([error, reply]) => {
    if (error) throw error;
    return reply;
  });

function queue(queued, pairs) {
  pairs.forEach(([key, value]) => queued.set(key, value));
  pairs.forEach(([key]) => queued.getBuffer(key));
  return queued;
}

async function keysOf(node, match) {
  const keys = [];
  for await (const some of node.scanStream({ match, count: 10 })) keys.push(...some);
  return keys;
}

await run({
  set: (key, value) => redis.set(key, value),
  get: (key) => redis.getBuffer(key),
  mset: (pairs) => redis.mset(...pairs.flat()),
  mget: (keys) => redis.mgetBuffer(...keys),
  del: (keys) => redis.del(...keys),
  exists: (keys) => redis.exists(...keys),
  pipeline: async (pairs) => (await replies(queue(redis.pipeline(), pairs))).slice(pairs.length),
  transaction: async (pairs) => (await replies(queue(redis.multi(), pairs))).slice(pairs.length),
  scan: async (match) => (await Promise.all((isCluster ? redis.nodes("master") : [redis]).map((node) => keysOf(node, match)))).flat(),
});
