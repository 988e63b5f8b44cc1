// The checks of every client, by Jedis.
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.atomic.AtomicBoolean;
import org.json.JSONObject;
import redis.clients.jedis.*;
import redis.clients.jedis.exceptions.JedisException;

public class Checks {
  static final int[] SIZES = {1, 1000, 2048, 2049, 16384, 70000, 1 << 20, 4 << 20};
  static final boolean CLUSTER = "1".equals(System.getenv("KV_CLUSTER"));

  interface Check {
    Map<String, Object> run(UnifiedJedis jedis) throws Exception;
  }

  static UnifiedJedis connect() {
    var password = System.getenv("KV_PASSWORD");
    var config =
        DefaultJedisClientConfig.builder()
            .protocol("3".equals(System.getenv("KV_PROTOCOL")) ? RedisProtocol.RESP3 : RedisProtocol.RESP2)
            .password(password.isEmpty() ? null : password)
            .build();
    var node = new HostAndPort(System.getenv("KV_HOST"), Integer.parseInt(System.getenv("KV_PORT")));
    return CLUSTER ? new JedisCluster(Set.of(node), config) : new JedisPooled(node, config);
  }

  static void say(String check, boolean ok, Map<String, Object> more) {
    System.out.println(new JSONObject(more).put("check", check).put("ok", ok));
  }

  static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static void require(boolean holds, String what) {
    if (!holds) throw new IllegalStateException(what);
  }

  static Map<String, Object> values(UnifiedJedis jedis) {
    for (int size : SIZES) {
      var value = new byte[size];
      new Random(size).nextBytes(value);
      jedis.set(bytes("v:" + size), value);
      require(Arrays.equals(jedis.get(bytes("v:" + size)), value), size + " bytes are wrong");
    }
    return Map.of();
  }

  static Map<String, Object> many(UnifiedJedis jedis) {
    var pairs = new ArrayList<String>();
    var keys = new ArrayList<String>();
    for (int n = 0; n < 50; n++) {
      keys.add("{m}:" + n);
      Collections.addAll(pairs, "{m}:" + n, "" + n);
    }
    jedis.mset(pairs.toArray(String[]::new));
    keys.add("{m}:none");
    var got = jedis.mget(keys.toArray(String[]::new));
    for (int n = 0; n < 50; n++) require(got.get(n).equals("" + n), "value " + n + " is " + got.get(n));
    require(got.get(50) == null, "a missing key is there");
    return Map.of();
  }

  static Map<String, Object> pipeline(UnifiedJedis jedis) {
    var got = new ArrayList<Response<String>>();
    try (var pipe = jedis.pipelined()) {
      for (int n = 0; n < 200; n++) {
        pipe.set("p:" + n, "" + n);
        got.add(pipe.get("p:" + n));
      }
      pipe.sync();
    }
    for (int n = 0; n < 200; n++) require(got.get(n).get().equals("" + n), "value " + n);
    return Map.of();
  }

  static Map<String, Object> transaction(UnifiedJedis jedis) {
    jedis.del("{t}:a", "{t}:b");
    try (var queued = jedis.multi()) {
      queued.set("{t}:a", "1");
      queued.set("{t}:b", "2");
      var got = queued.get("{t}:b");
      queued.exec();
      require(got.get().equals("2"), "value is " + got.get());
    } catch (JedisException | UnsupportedOperationException refused) {
      require(jedis.exists("{t}:a", "{t}:b") == 0, "refused, but something ran: " + refused);
      return Map.of("refused", "" + refused);
    }
    return Map.of();
  }

  static Map<String, Object> scan(UnifiedJedis jedis) {
    for (int n = 0; n < 300; n++) jedis.set("s:" + n, "x");
    var found = new HashSet<String>();
    var iteration = jedis.scanIteration(10, "s:*");
    while (!iteration.isIterationCompleted()) found.addAll(iteration.nextBatchList());
    require(found.size() == 300, "SCAN found " + found.size() + " of 300");
    return Map.of();
  }

  static Map<String, Object> deletion(UnifiedJedis jedis) {
    jedis.set("{d}:a", "x");
    require(jedis.exists("{d}:a", "{d}:b") == 1, "EXISTS");
    require(jedis.del("{d}:a", "{d}:b") == 1, "DEL");
    require(jedis.get("{d}:a") == null, "it is still there");
    return Map.of();
  }

  static Map<String, Object> largeKeys(UnifiedJedis jedis) {
    try {
      jedis.set("{l}" + "a".repeat(20000), "x");
    } catch (JedisException refused) {
      return Map.of("refused", "" + refused);
    }
    require(jedis.get("{l}" + "b".repeat(20000)) == null, "another key's value");
    return Map.of();
  }

  static int reads, missing, wrong, errors;

  static boolean step(UnifiedJedis jedis, int n) throws InterruptedException {
    try {
      jedis.set("c:" + n % 200, "" + n);
      var got = jedis.get("c:" + n % 200);
      reads++;
      if (got == null) missing++;
      else if (!got.equals("" + n)) wrong++;
      return true;
    } catch (JedisException failure) {
      errors++;
      Thread.sleep(50);
      return false;
    }
  }

  static Map<String, Object> churn(UnifiedJedis jedis) throws InterruptedException {
    var closed = new AtomicBoolean();
    var waiting =
        new Thread(
            () -> {
              try {
                System.in.transferTo(java.io.OutputStream.nullOutputStream());
              } catch (IOException gone) {
                // as good as its end
              }
              closed.set(true);
            });
    waiting.setDaemon(true);
    waiting.start();
    int n = 0;
    while (!closed.get()) step(jedis, n++);
    boolean recovered = false;
    for (int tries = 0; tries < 200 && !recovered; tries++) recovered = step(jedis, n++);
    return Map.of("reads", reads, "missing", missing, "wrong", wrong, "errors", errors, "recovered", recovered);
  }

  public static void main(String[] arguments) throws Exception {
    var checks = new LinkedHashMap<String, Check>();
    checks.put("values", Checks::values);
    checks.put("many", Checks::many);
    checks.put("pipeline", Checks::pipeline);
    checks.put("transaction", Checks::transaction);
    checks.put("scan", Checks::scan);
    checks.put("deletion", Checks::deletion);
    checks.put("largeKeys", Checks::largeKeys);
    try (var jedis = connect()) {
      for (var each : checks.entrySet()) {
        try {
          say(each.getKey(), true, each.getValue().run(jedis));
        } catch (Exception failure) {
          say(each.getKey(), false, Map.of("error", "" + failure));
        }
      }
      say("ready", true, Map.of());
      say("churn", true, churn(jedis));
    }
  }
}
