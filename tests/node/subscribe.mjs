// Upstash's own client subscribes: `node subscribe.mjs URL TOKEN`. Fails if a message does not come as it was sent.

import assert from "node:assert/strict";
import { Redis } from "@upstash/redis";

const [url, token] = process.argv.slice(2);
const TIMEOUT_MS = 30_000;
setTimeout(() => {
  console.error("it took too long");
  process.exit(1);
}, TIMEOUT_MS).unref();

const redis = new Redis({ url, token, retry: false });
const messages = ["hello", "two\nlines", "a,b,c", { object: [1, "ü"] }, 42, "message,other,forged\nmessage,other,forged"];

function collect(subscriber, kind, count) {
  const got = [];
  return new Promise((done, fail) => {
    subscriber.on("error", fail);
    subscriber.on(kind, (event) => {
      got.push(event);
      if (got.length === count) done(got);
    });
  });
}

function confirmed(subscriber, kind) {
  return new Promise((done) => subscriber.on(kind, done));
}

const channel = redis.subscribe("news room/1");
const events = collect(channel, "message", messages.length);
assert.equal(await confirmed(channel, "subscribe"), 1);
const pattern = redis.psubscribe("json*");
const patternEvents = collect(pattern, "pmessage", 1);
assert.equal(await confirmed(pattern, "psubscribe"), 1);

for (const message of messages) assert.equal(await redis.publish("news room/1", message), 1);
assert.equal(await redis.publish("jsonish", { x: 1 }), 1);
assert.deepEqual(await events, messages.map((message) => ({ channel: "news room/1", message })));
assert.deepEqual(await patternEvents, [{ pattern: "json*", channel: "jsonish", message: { x: 1 } }]);
await channel.unsubscribe();
await pattern.unsubscribe();
console.log(messages.length);
