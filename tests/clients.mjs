// Node's own clients. `fetch URL` and `http URL [SOCKET]` read a request from each line of stdin and write its reply
// to stdout; `NAME URL` plays one of the scenarios below, and fails if anything in it is not as it should be.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import http from "node:http";
import readline from "node:readline";
import { pipeline } from "node:stream/promises";
import { buffer } from "node:stream/consumers";

const [what, url, socketPath] = process.argv.slice(2);
const TIMEOUT_MS = 20_000;
const PIECE = 64 << 10;
const PIECES = 64;
const BIG = randomBytes(PIECE * PIECES);

setTimeout(() => {
  console.error(`${what} took too long`);
  process.exit(1);
}, TIMEOUT_MS).unref();

// -- one request ------------------------------------------------------------------------------------------------

async function byFetch({ method, target, body, fields }) {
  const reply = await fetch(url + target, { method, body, headers: fields });
  return {
    status: reply.status,
    fields: Object.fromEntries(reply.headers),
    body: Buffer.from(await reply.arrayBuffer()),
  };
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

async function byHttp({ method, target, body, fields }) {
  const request = http.request(url + target, { method, headers: fields, agent, socketPath });
  request.end(body);
  const [reply] = await once(request, "response");
  return { status: reply.statusCode, fields: reply.headers, body: await buffer(reply) };
}

async function serve(send) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { body, ...rest } = JSON.parse(line);
    const reply = await send({ ...rest, body: body === null ? undefined : Buffer.from(body, "base64") });
    console.log(JSON.stringify({ ...reply, body: reply.body.toString("base64") }));
  }
}

// -- scenarios --------------------------------------------------------------------------------------------------

const json = (key, value) => JSON.stringify({ key, value });

// A stream of bytes, in pieces that are made when they are asked for.
function streamOf(bytes) {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, (at += PIECE)));
    },
  });
}

const upload = (target, body, more) => fetch(url + target, { method: "PUT", body, duplex: "half", ...more });

async function download(target) {
  const pieces = [];
  for await (const piece of (await fetch(url + target)).body) pieces.push(piece);
  return Buffer.concat(pieces);
}

const scenarios = {
  async fetchStreams() {
    assert.equal((await upload("/kv/stream", streamOf(BIG))).status, 201);
    assert.deepEqual(await download("/kv/stream"), BIG);
    const text = BIG.toString("base64");
    assert.equal((await upload("/put", streamOf(Buffer.from(json("stream", text))))).status, 200);
    assert.equal(JSON.parse(await download("/get?key=stream")).value, text);
    assert.equal((await download("/kv/stream")).toString(), text);
  },

  async fetchAborts() {
    await upload("/kv/aborted", "before");
    for (const [target, piece] of [["/kv/aborted", BIG.subarray(0, PIECE)], ["/put", '{"key":"aborted","value":"x']]) {
      const controller = new AbortController();
      let pulls = 0;
      const endless = new ReadableStream({
        pull(stream) {
          if (++pulls > 5) controller.abort();
          else stream.enqueue(Buffer.from(piece));
        },
      });
      await assert.rejects(upload(target, endless, { signal: controller.signal }), { name: "AbortError" });
      assert.equal((await download("/kv/aborted")).toString(), "before");
    }
    await upload("/kv/aborted", BIG);
    for (const target of ["/kv/aborted", "/get?key=aborted"]) {
      const controller = new AbortController();
      const reader = (await fetch(url + target, { signal: controller.signal })).body.getReader();
      assert.ok((await reader.read()).value.length > 0);
      controller.abort();
      await assert.rejects(async () => {
        while (!(await reader.read()).done);
      }, { name: "AbortError" });
      const cancelled = await fetch(url + target);
      await cancelled.body.cancel();
    }
    assert.deepEqual(await download("/kv/aborted"), BIG);
  },

  async fetchParallel() {
    const all = (run) => Promise.all(Array.from({ length: 64 }, (_, number) => run(`many${number}`)));
    for (let round = 0; round < 3; round++) {
      await all(async (key) => assert.equal((await upload("/put", json(key, key))).status, 200));
      await all(async (key) => assert.equal((await (await fetch(`${url}/get?key=${key}`)).json()).value, key));
      await all(async (key) => assert.equal((await upload(`/kv/${key}`, key + key)).status, 204));
      await all(async (key) => assert.equal(await (await fetch(`${url}/kv/${key}`)).text(), key + key));
    }
    await all(async (key) => assert.equal((await fetch(`${url}/kv/${key}`, { method: "DELETE" })).status, 204));
    await all(async (key) => assert.equal((await fetch(`${url}/delete?key=${key}`, { method: "DELETE" })).status, 404));
  },

  async httpAgent() {
    const pool = new http.Agent({ keepAlive: true, maxSockets: 4 });
    const ports = new Set();
    const send = async (method, target, body) => {
      const request = http.request(url + target, { method, agent: pool }).end(body);
      const [reply] = await once(request, "response");
      ports.add(reply.socket.localPort);
      assert.ok(reply.statusCode < 300, `${method} ${target}: ${reply.statusCode}`);
      return buffer(reply);
    };
    const all = (run) => Promise.all(Array.from({ length: 100 }, (_, number) => run(`agent${number}`)));
    await all((key) => send("POST", "/put", json(key, key)));
    await all(async (key) => assert.equal(JSON.parse(await send("GET", `/get?key=${key}`)).value, key));
    await all((key) => send("PUT", `/kv/${key}`, BIG.subarray(0, 1000)));
    await all(async (key) => assert.deepEqual(await send("GET", `/kv/${key}`), BIG.subarray(0, 1000)));
    await all((key) => send("DELETE", `/delete?key=${key}`));
    assert.ok(ports.size <= 4, `${ports.size} connections`);
    pool.destroy();
  },

  // It waits until it may send the body, which has no length but a trailer.
  async httpContinues() {
    for (const [target, body, statuses] of [["/kv/continued", BIG, [201, 204]], ["/put", json("continued", "v"), [200]]]) {
      const headers = { Expect: "100-continue", Trailer: "X-Sum", "Transfer-Encoding": "chunked" };
      const request = http.request(url + target, { method: "PUT", headers });
      request.flushHeaders();
      await once(request, "continue");
      request.addTrailers({ "X-Sum": "1" });
      const [[reply]] = await Promise.all([once(request, "response"), pipeline(streamOf(Buffer.from(body)), request)]);
      assert.ok(statuses.includes(reply.statusCode), `${target}: ${reply.statusCode}`);
      await buffer(reply);
      if (target !== "/put") assert.deepEqual(await download(target), body);
    }
    assert.equal((await download("/kv/continued")).toString(), "v");
  },
};

// -- which ------------------------------------------------------------------------------------------------------

await ({ fetch: () => serve(byFetch), http: () => serve(byHttp) }[what] ?? scenarios[what])();
process.exit(0);
