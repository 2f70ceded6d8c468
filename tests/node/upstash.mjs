// Upstash's own client against a server: `node upstash.mjs URL TOKEN`. Fails if anything is not as it should be.

import assert from "node:assert/strict";
import { Redis } from "@upstash/redis";

const [url, token] = process.argv.slice(2);
const TIMEOUT_MS = 30_000;
setTimeout(() => {
  console.error("it took too long");
  process.exit(1);
}, TIMEOUT_MS).unref();

const redis = new Redis({ url, token, enableTelemetry: true, enableAutoPipelining: false, retry: false });
const raw = new Redis({ url, token, automaticDeserialization: false, enableAutoPipelining: false, retry: false });
const plain = new Redis({ url, token, responseEncoding: false, enableAutoPipelining: false, retry: false });

const scenarios = {
  async strings() {
    assert.equal(await redis.set("s", "v"), "OK");
    assert.equal(await redis.get("s"), "v");
    assert.equal(await redis.get("none"), null);
    assert.equal(await redis.set("s", "w", { nx: true }), null);
    assert.equal(await redis.set("s", "w", { xx: true, get: true }), "v");
    assert.equal(await redis.set("s", "x", { ex: 100 }), "OK");
    const ttl = await redis.ttl("s");
    assert.ok(ttl > 0 && ttl <= 100, `ttl ${ttl}`);
    assert.equal(await redis.set("s", "y", { keepTtl: true }), "OK");
    assert.ok((await redis.pttl("s")) > 0);
    assert.equal(await redis.persist("s"), 1);
    assert.equal(await redis.ttl("s"), -1);
    assert.equal(await redis.set("s", "z", { px: 100_000 }), "OK");
    assert.equal(await redis.set("s", "z", { exat: Math.floor(Date.now() / 1000) + 50 }), "OK");
    assert.equal(await redis.set("s", "z", { pxat: Date.now() + 50_000 }), "OK");
    assert.equal(await redis.getex("s", { persist: true }), "z");
    assert.equal(await redis.getset("s", "new"), "z");
    assert.equal(await redis.getdel("s"), "new");
    assert.equal(await redis.exists("s"), 0);
    assert.equal(await redis.setnx("s", "1"), 1);
    assert.equal(await redis.setex("s", 10, "abc"), "OK");
    assert.equal(await redis.psetex("s", 10_000, "abc"), "OK");
    assert.equal(await redis.append("s", "def"), 6);
    assert.equal(await redis.strlen("s"), 6);
    assert.equal(await redis.getrange("s", 1, -2), "bcde");
    assert.equal(await redis.setrange("s", 3, "XYZ"), 6);
    assert.equal(await redis.get("s"), "abcXYZ");
    assert.equal(await redis.type("s"), "string");
    assert.equal(await redis.del("s", "none"), 1);
  },

  async objects() {
    const value = { a: [1, 2.5, null, true], "ü": "💥", deep: { er: "\u0000\n\"" } };
    await redis.set("o", value);
    assert.deepEqual(await redis.get("o"), value);
    await redis.mset({ m1: { x: 1 }, m2: [1, 2], m3: "text" });
    assert.deepEqual(await redis.mget("m1", "m2", "none", "m3"), [{ x: 1 }, [1, 2], null, "text"]);
    assert.equal(await redis.msetnx({ m1: 1, m9: 2 }), 0);
    assert.equal(await redis.get("m9"), null);
    assert.equal(await redis.unlink("o", "m1", "m2", "m3"), 4);
  },

  async numbers() {
    await redis.set("n", 5);
    assert.equal(await redis.get("n"), 5);
    assert.equal(await redis.incr("n"), 6);
    assert.equal(await redis.incrby("n", 10), 16);
    assert.equal(await redis.decr("n"), 15);
    assert.equal(await redis.decrby("n", 5), 10);
    assert.equal(await redis.incrbyfloat("n", 0.5), 10.5);
    for (const number of ["101600000000150081467", "9007199254740993", "-170141183460469231731687303715884105728"]) {
      await redis.set("n", number);
      assert.equal(await raw.get("n"), number);
      // The client keeps integers that a double cannot hold as strings.
      assert.equal(String(await redis.get("n")), number);
    }
    await redis.set("n", "9223372036854775806");
    await redis.incr("n");
    assert.equal(await raw.get("n"), "9223372036854775807");
    await assert.rejects(redis.incr("n"), /ERR increment or decrement would overflow/);
    await redis.set("n", 1e21);
    assert.equal(await raw.get("n"), "1e+21");
    await redis.set("n", true);
    assert.equal(await raw.get("n"), "true");
    await redis.del("n");
  },

  async encodings() {
    const text = "\u0000\u007f\u00e9\u4e2d\u{1F600} \" \\ \n \u2028";
    await raw.set("e", text);
    assert.equal(await raw.get("e"), text);
    assert.equal(await plain.get("e"), text);
    await raw.set("e", "OK");
    assert.equal(await raw.get("e"), "OK");
    await raw.set("e", "");
    assert.equal(await raw.get("e"), "");
    await redis.del("e");
  },

  async pipelines() {
    const pipeline = redis.pipeline();
    pipeline.set("p1", 1).incr("p1").get("p1").mget("p1", "none").del("p1").get("p1");
    assert.deepEqual(await pipeline.exec(), ["OK", 2, 2, [2, null], 1, null]);
    const faulty = redis.pipeline();
    faulty.set("p1", "x").incr("p1").get("p1");
    await assert.rejects(faulty.exec(), /not an integer/);
    const kept = await redis.pipeline().set("p1", "x").incr("p1").get("p1").exec({ keepErrors: true });
    assert.equal(kept[0].result, "OK");
    assert.match(kept[1].error, /ERR value is not an integer or out of range/);
    assert.equal(kept[2].result, "x");
    await redis.del("p1");
  },

  async transactions() {
    const multi = redis.multi();
    multi.set("t1", "a").set("t2", "b").mget("t1", "t2").incr("t3").del("t1", "t2", "t3");
    assert.deepEqual(await multi.exec(), ["OK", "OK", ["a", "b"], 1, 3]);
    await Promise.all(Array.from({ length: 50 }, () => redis.multi().incr("t4").incr("t5").exec()));
    assert.deepEqual(await redis.mget("t4", "t5"), [50, 50]);
    await redis.del("t4", "t5");
  },

  async autoPipelines() {
    const auto = new Redis({ url, token, enableAutoPipelining: true, retry: false });
    // What it sends in one pipeline and what ahead of it is the client's business: each row stands for itself.
    assert.deepEqual(await Promise.all([auto.set("a1", 1), auto.set("a2", 2)]), ["OK", "OK"]);
    const counts = await Promise.all(Array.from({ length: 20 }, () => auto.incr("a1")));
    assert.deepEqual(counts, Array.from({ length: 20 }, (_, i) => i + 2));
    assert.deepEqual(await Promise.all([auto.get("a1"), auto.get("a2"), auto.mget("a1", "a2")]), [21, 2, [21, 2]]);
    const failing = await Promise.allSettled([auto.incr("a1"), auto.expire("a1", "soon"), auto.incr("a2")]);
    assert.deepEqual(failing.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    await redis.del("a1", "a2");
  },

  async scans() {
    const wanted = new Set(Array.from({ length: 500 }, (_, i) => `scan:${i}`));
    await redis.mset(Object.fromEntries([...wanted].map((key) => [key, "v"])));
    const met = new Set();
    let cursor = "0";
    do {
      const [next, keys] = await redis.scan(cursor, { match: "scan:*", count: 100, type: "string" });
      keys.forEach((key) => met.add(key));
      cursor = next;
      assert.equal(typeof cursor, "string");
    } while (cursor !== "0");
    assert.deepEqual(met, wanted);
    assert.deepEqual(new Set(await redis.keys("scan:*")), wanted);
    assert.ok((await redis.dbsize()) >= 500);
    assert.ok((await redis.randomkey()) !== null);
    assert.equal(await redis.del(...wanted), 500);
  },

  async lifetimes() {
    await redis.set("l", 1);
    assert.equal(await redis.expire("l", 100), 1);
    assert.equal(await redis.expire("l", 50, "GT"), 0);
    assert.equal(await redis.pexpire("l", 50_000), 1);
    assert.equal(await redis.expireat("l", Math.floor(Date.now() / 1000) + 20), 1);
    assert.equal(await redis.pexpireat("l", Date.now() + 20_000), 1);
    assert.ok((await redis.pttl("l")) > 0);
    assert.equal(await redis.touch("l", "none"), 1);
    assert.equal(await redis.expire("l", -1), 1);
    assert.equal(await redis.ttl("l"), -2);
  },

  async server() {
    assert.equal(await redis.ping(), "PONG");
    assert.equal(await redis.ping(["hi"]), "hi");
    assert.equal(await redis.echo("hello"), "hello");
    const [seconds] = await redis.time();
    assert.ok(Math.abs(Number(seconds) - Date.now() / 1000) < 60);
    await redis.set("f", 1);
    assert.equal(await redis.flushdb(), "OK");
    assert.equal(await redis.dbsize(), 0);
    await redis.set("f", 1);
    assert.equal(await redis.flushall({ async: true }), "OK");
    assert.equal(await redis.exists("f"), 0);
  },

  async bytesThatAreNoText() {
    const headers = { Authorization: `Bearer ${token}` };
    await fetch(`${url}/kv/raw`, { method: "PUT", headers, body: new Uint8Array([255]) });
    await redis.set("text", "v");
    await assert.rejects(plain.get("raw"), /UTF-8/);
    await assert.rejects(plain.mget("text", "raw"), /UTF-8/);
    await assert.rejects(plain.pipeline().get("text").get("raw").exec(), /UTF-8/);
    await assert.rejects(plain.multi().get("text").get("raw").exec(), /UTF-8/);
    assert.deepEqual(await plain.mget("text", "none"), ["v", null]);
    assert.equal(await redis.del("raw", "text"), 2);
  },

  async errors() {
    await assert.rejects(redis.expire("k", "soon"), /ERR value is not an integer or out of range, command was/);
    await assert.rejects(redis.hset("h", { a: 1 }), /ERR unknown command/i);
    const stranger = new Redis({ url, token: "wrong", retry: false });
    await assert.rejects(stranger.get("k"), /token of the server/);
  },
};

for (const [name, play] of Object.entries(scenarios)) {
  try {
    await play();
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    process.exit(1);
  }
}
console.log(Object.keys(scenarios).length);
