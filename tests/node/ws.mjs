// The ws package, and Node's own WebSocket where it has one, against /ws: node ws.mjs URL. Says how many checks held.
import assert from 'node:assert/strict'
import { WebSocket as Packaged } from 'ws'

const url = process.argv[2]
let checks = 0
const same = (found, expected) => { assert.deepEqual(found, expected); checks++ }

async function talk(Socket, options) {
  const socket = new Socket(url, ...options)
  socket.binaryType = 'arraybuffer'
  const waiting = []
  socket.onmessage = event => waiting.shift()(event.data)
  await new Promise((done, failed) => { socket.onopen = done; socket.onerror = event => failed(event.error ?? event) })
  const ask = message => new Promise(done => { waiting.push(done); socket.send(message) })
  const said = async message => JSON.parse(await ask(JSON.stringify(message)))
  same(await said(['SET', 'node', 'ü😀\0']), { result: 'OK' })
  for (let i = 0; i < 4; i++) same(await said(['GET', 'node']), { result: 'ü😀\0' })
  same(await said({ id: { a: [1.5] }, cmd: ['STRLEN', 'node'] }), { id: { a: [1.5] }, result: 7 })
  same(await said([['PING'], { id: 2, cmd: ['GET', 'none'] }]), [{ result: 'PONG' }, { id: 2, result: null }])
  const long = 'x'.repeat(300_000)
  same(await said(['SET', 'long', long]), { result: 'OK' })
  same(await said(['GET', 'long']), { result: long })
  const many = await Promise.all(Array.from({ length: 500 }, (_, i) => said({ id: i, cmd: ['ECHO', i] })))
  same(many, Array.from({ length: 500 }, (_, i) => ({ id: i, result: String(i) })))
  const bytes = new TextEncoder().encode('*2\r\n$3\r\nGET\r\n$4\r\nnode\r\n')
  same(new TextDecoder().decode(await ask(bytes)), '$7\r\nü😀\0\r\n')
  const closed = new Promise(done => { socket.onclose = event => done([event.code, event.wasClean]) })
  socket.close(1000)
  same(await closed, [1000, true])
}

await talk(Packaged, [])
await talk(Packaged, [{ perMessageDeflate: false }])
if (globalThis.WebSocket) await talk(globalThis.WebSocket, [])
console.log(checks)
