// What every client is asked to do; `client` is one of the two adapters beside this file.
import { randomBytes } from "node:crypto";

const SIZES = [1, 1000, 2048, 2049, 16384, 70000, 1 << 20, 4 << 20];

export function say(check, more) {
  console.log(JSON.stringify({ check, ...more }));
}

function same(got, wanted, what) {
  if (!got || Buffer.compare(Buffer.from(got), Buffer.from(wanted)) !== 0) throw new Error(`${what} is wrong: ${got}`);
}

async function values(client) {
  for (const size of SIZES) {
    const value = randomBytes(size);
    await client.set(`v:${size}`, value);
    same(await client.get(`v:${size}`), value, `${size} bytes`);
  }
}

async function many(client) {
  const pairs = Array.from({ length: 50 }, (_, n) => [`{m}:${n}`, Buffer.from(`${n}`)]);
  await client.mset(pairs);
  const got = await client.mget([...pairs.map(([key]) => key), "{m}:none"]);
  pairs.forEach(([, value], n) => same(got[n], value, `value ${n}`));
  if (got[50] !== null) throw new Error(`a missing key is ${got[50]}`);
}

async function pipeline(client) {
  const got = await client.pipeline(Array.from({ length: 200 }, (_, n) => [`{p}:${n}`, Buffer.from(`${n}`)]));
  got.forEach((value, n) => same(value, `${n}`, `value ${n}`));
}

async function transaction(client) {
  await client.del(["{t}:a", "{t}:b"]);
  let got;
  try {
    got = await client.transaction([["{t}:a", Buffer.from("1")], ["{t}:b", Buffer.from("2")]]);
  } catch (error) {
    if (await client.exists(["{t}:a", "{t}:b"])) throw new Error(`refused, but something ran: ${error}`);
    return { refused: `${error}` };
  }
  got.forEach((value, n) => same(value, `${n + 1}`, `value ${n}`));
}

async function scan(client) {
  const wanted = Array.from({ length: 300 }, (_, n) => `s:${n}`).sort();
  for (const key of wanted) await client.set(key, Buffer.from("x"));
  const found = [...new Set(await client.scan("s:*"))].sort();
  if (found.join() !== wanted.join()) throw new Error(`SCAN found ${found.length} of 300`);
}

async function deletion(client) {
  await client.set("{d}:a", Buffer.from("x"));
  if ((await client.exists(["{d}:a", "{d}:b"])) !== 1) throw new Error("EXISTS");
  if ((await client.del(["{d}:a", "{d}:b"])) !== 1) throw new Error("DEL");
  if ((await client.get("{d}:a")) !== null) throw new Error("it is still there");
}

async function largeKeys(client) {
  try {
    await client.set("{l}" + "a".repeat(20000), Buffer.from("x"));
    if ((await client.get("{l}" + "b".repeat(20000))) !== null) throw Object.assign(new Error("another key's value"), { wrong: true });
  } catch (error) {
    if (error.wrong) throw error;
    return { refused: `${error}` };
  }
}

async function churn(client) {
  let open = true;
  process.stdin.on("data", () => {}).on("end", () => (open = false));
  const counts = { reads: 0, missing: 0, wrong: 0, errors: 0, recovered: false };
  const step = async (n) => {
    try {
      await client.set(`c:${n % 200}`, Buffer.from(`${n}`));
      const got = await client.get(`c:${n % 200}`);
      counts.reads += 1;
      counts.missing += got === null;
      counts.wrong += got !== null && Buffer.from(got).toString() !== `${n}`;
      return true;
    } catch {
      counts.errors += 1;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return false;
    }
  };
  let n = 0;
  while (open) await step(n++);
  for (let tries = 0; tries < 200 && !counts.recovered; tries++) counts.recovered = await step(n++);
  return counts;
}

export async function run(client) {
  for (const [name, check] of Object.entries({ values, many, pipeline, transaction, scan, deletion, largeKeys })) {
    try {
      say(name, { ok: true, ...(await check(client)) });
    } catch (error) {
      say(name, { ok: false, error: `${error}` });
    }
  }
  say("ready", { ok: true });
  say("churn", { ok: true, ...(await churn(client)) });
  process.exit(0);
}
