import { readFileSync } from "node:fs";

const { KV_HOST, KV_PORT, KV_CLUSTER, KV_PASSWORD, KV_PROTOCOL, KV_CA } = process.env;

export const host = KV_HOST;
export const port = Number(KV_PORT);
export const isCluster = KV_CLUSTER === "1";
export const password = KV_PASSWORD || undefined;
export const protocol = Number(KV_PROTOCOL);
export const ca = KV_CA ? readFileSync(KV_CA) : undefined;
