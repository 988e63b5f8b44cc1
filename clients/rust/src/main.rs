//! The checks of every client, by the crate redis.

use std::collections::HashSet;
use std::env::var;
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redis::cluster::{ClusterClient, cluster_pipe};
use redis::{ConnectionLike, RedisError, TypedCommands, cmd, pipe};
use serde_json::{Value, json};

const SIZES: [usize; 8] = [1, 1000, 2048, 2049, 16384, 70000, 1 << 20, 4 << 20];

type Outcome = Result<Value, String>;

fn told(error: RedisError) -> String {
    error.to_string()
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_string()) }
}

fn values<C: ConnectionLike>(client: &mut C) -> Outcome {
    for size in SIZES {
        let value: Vec<u8> = (0..size).map(|at| (at * 7 + size + at / 251) as u8).collect();
        let key = format!("v:{size}");
        cmd("SET").arg(&key).arg(&value).exec(client).map_err(told)?;
        let got: Vec<u8> = cmd("GET").arg(&key).query(client).map_err(told)?;
        require(got == value, &format!("{size} bytes are wrong"))?;
    }
    Ok(json!({}))
}

fn many<C: ConnectionLike>(client: &mut C) -> Outcome {
    let pairs: Vec<(String, String)> = (0..50).map(|n| (format!("{{m}}:{n}"), n.to_string())).collect();
    client.mset(&pairs).map_err(told)?;
    let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    keys.push("{m}:none");
    let got: Vec<Option<String>> = cmd("MGET").arg(&keys).query(client).map_err(told)?;
    for (at, (_, value)) in pairs.iter().enumerate() {
        require(got[at].as_ref() == Some(value), &format!("value {at} is {:?}", got[at]))?;
    }
    require(got[50].is_none(), "a missing key is there")?;
    Ok(json!({}))
}

fn transaction<C: ConnectionLike>(client: &mut C) -> Outcome {
    client.del(&["{t}:a", "{t}:b"]).map_err(told)?;
    let mut queued = pipe();
    queued.atomic().set("{t}:a", 1).ignore().set("{t}:b", 2).ignore().get("{t}:b");
    match queued.query::<Vec<String>>(client) {
        Ok(got) => require(got == ["2"], &format!("{got:?}"))?,
        Err(refused) => {
            let there = client.exists("{t}:a").map_err(told)? || client.exists("{t}:b").map_err(told)?;
            require(!there, &format!("refused, but something ran: {refused}"))?;
            return Ok(json!({"refused": refused.to_string()}));
        }
    }
    Ok(json!({}))
}

fn deletion<C: ConnectionLike>(client: &mut C) -> Outcome {
    client.set("{d}:a", "x").map_err(told)?;
    require(client.exists("{d}:a").map_err(told)?, "EXISTS")?;
    require(client.del(&["{d}:a", "{d}:b"]).map_err(told)? == 1, "DEL")?;
    require(client.get("{d}:a").map_err(told)?.is_none(), "it is still there")?;
    Ok(json!({}))
}

fn large_keys<C: ConnectionLike>(client: &mut C) -> Outcome {
    if let Err(refused) = client.set(format!("{{l}}{}", "a".repeat(20000)), "x") {
        return Ok(json!({"refused": refused.to_string()}));
    }
    let other = client.get(format!("{{l}}{}", "b".repeat(20000))).map_err(told)?;
    require(other.is_none(), "another key's value")?;
    Ok(json!({}))
}

fn scan(client: &mut redis::Connection) -> Outcome {
    for n in 0..300 {
        client.set(format!("s:{n}"), "x").map_err(told)?;
    }
    let mut words = cmd("SCAN");
    words.cursor_arg(0).arg("MATCH").arg("s:*").arg("COUNT").arg(10);
    let found: Result<HashSet<String>, RedisError> = words.iter::<String>(client).map_err(told)?.collect();
    let found = found.map_err(told)?;
    require(found.len() == 300, &format!("SCAN found {} of 300", found.len()))?;
    Ok(json!({}))
}

fn step<C: ConnectionLike>(client: &mut C, n: usize, counts: &mut [usize; 4]) -> bool {
    let key = format!("c:{}", n % 200);
    let got = client.set(&key, n).and_then(|_| client.get(&key));
    match got {
        Ok(got) => {
            counts[0] += 1;
            counts[1] += usize::from(got.is_none());
            counts[2] += usize::from(got.is_some_and(|got| got != n.to_string()));
            true
        }
        Err(_) => {
            counts[3] += 1;
            thread::sleep(Duration::from_millis(50));
            false
        }
    }
}

/// `again` connects anew: a connection of this crate does not do so by itself.
fn churn<C: ConnectionLike>(mut client: C, again: impl Fn() -> Result<C, RedisError>) -> Value {
    let closed = Arc::new(AtomicBool::new(false));
    let seen = closed.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::Relaxed);
    });
    let mut counts = [0; 4];
    let (mut n, mut tries, mut recovered) = (0, 0, false);
    while tries < 200 && !recovered {
        if !client.is_open() && let Ok(opened) = again() {
            client = opened;
        }
        let done = step(&mut client, n, &mut counts);
        n += 1;
        if closed.load(Ordering::Relaxed) {
            tries += 1;
            recovered = done;
        }
    }
    json!({"reads": counts[0], "missing": counts[1], "wrong": counts[2], "errors": counts[3], "recovered": recovered})
}

fn say(check: &str, outcome: Outcome) {
    let mut line = json!({"check": check, "ok": outcome.is_ok()});
    match outcome {
        Ok(Value::Object(more)) => line.as_object_mut().unwrap().extend(more),
        Ok(_) => {}
        Err(error) => line["error"] = json!(error),
    }
    println!("{line}");
}

fn checked<C: ConnectionLike>(client: &mut C) {
    say("values", values(client));
    say("many", many(client));
    say("deletion", deletion(client));
    say("largeKeys", large_keys(client));
}

/// On a connection of its own: replies that no transaction has may leave it out of step, or end in a panic.
fn say_transaction<C: ConnectionLike>(mut client: C) {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| transaction(&mut client)));
    say("transaction", outcome.unwrap_or_else(|_| Err("the client panicked".to_string())));
}

fn on_a_node(url: &str) {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_connection().unwrap();
    checked(&mut connection);
    say_transaction(client.get_connection().unwrap());
    let mut queued = pipe();
    for n in 0..200 {
        queued.set(format!("p:{n}"), n).ignore().get(format!("p:{n}"));
    }
    let got = queued.query::<Vec<usize>>(&mut connection);
    say("pipeline", got.map_err(told).and_then(|got| require(got.into_iter().eq(0..200), "order")).map(|_| json!({})));
    say("scan", scan(&mut connection));
    say("ready", Ok(json!({})));
    say("churn", Ok(churn(connection, || client.get_connection())));
}

fn on_a_cluster(url: &str) {
    let client = ClusterClient::new(vec![url]).unwrap();
    let mut connection = client.get_connection().unwrap();
    checked(&mut connection);
    say_transaction(client.get_connection().unwrap());
    let mut queued = cluster_pipe();
    for n in 0..200 {
        queued.set(format!("p:{n}"), n).ignore().get(format!("p:{n}"));
    }
    let got = queued.query::<Vec<usize>>(&mut connection);
    say("pipeline", got.map_err(told).and_then(|got| require(got.into_iter().eq(0..200), "order")).map(|_| json!({})));
    say("ready", Ok(json!({})));
    say("churn", Ok(churn(connection, || client.get_connection())));
}

fn main() {
    let setting = |name| var(name).unwrap_or_default();
    let password = setting("KV_PASSWORD").replace(' ', "%20");
    let (host, port, protocol) = (setting("KV_HOST"), setting("KV_PORT"), setting("KV_PROTOCOL"));
    let url = format!("redis://:{password}@{host}:{port}/?protocol=resp{protocol}");
    if setting("KV_CLUSTER") == "1" { on_a_cluster(&url) } else { on_a_node(&url) }
}
