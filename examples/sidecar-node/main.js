'use strict';

// A program beside a parley node: it brings the rules of a chain (chain.js) and
// the node brings the peers. Each line on stdin becomes a block; each new head
// is a line on stdout.
//
//   node main.js --node unix:/path/of/data_dir/parley.sock --seed FILE --authorities HEX,HEX

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const { Chain, Fault, publicKeyOf } = require('./chain.js');
const { readArgs, load, fail } = require('./args.js');

const args = readArgs();
if (args['print-key']) {
  console.log(publicKeyOf(args.key));
  process.exit(0);
}

const grpc = load('@grpc/grpc-js');
const loader = load('@grpc/proto-loader');

const TOPIC = 'blocks';
const SYNC = 'blocks'; // the request: {"from": height}, answered by blocks, one a line
const BATCH = 500; // blocks in a part of an answer
const BACK = 20; // blocks that a sync begins before our head, for forks

const { key } = args;
const chain = new Chain(args.authorities);
const log = (...words) => console.error(...words);

if (!fs.existsSync(path.join(args.proto, 'parley/v1/sidecar.proto'))) fail(1, `--proto ${args.proto}: parley/v1/sidecar.proto is not there`);
const definition = loader.loadSync('parley/v1/sidecar.proto', { includeDirs: [args.proto], keepCase: true, longs: Number, enums: String, oneofs: true });
const { SidecarService } = grpc.loadPackageDefinition(definition).parley.v1;
const client = new SidecarService(args.node, grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': 8 << 20, // a part of an answer may have 4 MiB
});
const metadata = new grpc.Metadata();
if (process.env.PARLEY_TOKEN) metadata.set('authorization', `Bearer ${process.env.PARLEY_TOKEN}`);

const call = (name, request) => new Promise((resolve, reject) => {
  client[name](request, metadata, (err, answer) => (err ? reject(err) : resolve(answer)));
});

let self = ''; // our node's peer id
const syncing = new Set(); // peers that we ask now

// take adds a block that was checked, and tells of a new head.
async function take(block) {
  if (!chain.add(block)) return;
  const { height, hash, text } = chain.head;
  console.log(JSON.stringify({ height, hash, text }));
  await tellHead();
}

// tellHead sends one head after the other: two calls at once may arrive in
// either order, and the newest must be the last.
let telling = Promise.resolve();
const tellHead = () => (telling = telling.catch(() => {}).then(sendHead));

async function sendHead() {
  const { height, hash, prev, time } = chain.head;
  await call('SetHead', {
    height, hash: Buffer.from(hash, 'hex'), prev_hash: Buffer.from(prev, 'hex'), time_ms: time, block_count: height + 1,
  });
}

// judge answers a Validate. What we cannot judge costs nobody anything.
async function judge(stream, { id, from, data }) {
  try {
    const block = chain.check(data);
    stream.write({ verdict: { id, kind: 'ACCEPT' } });
    await take(block);
  } catch (err) {
    if (!(err instanceof Fault)) throw err;
    if (err.reason === 'orphan') {
      stream.write({ verdict: { id, kind: 'IGNORE' } });
      await sync(from);
      return;
    }
    log('block rejected:', err.reason, err.message);
    stream.write({ verdict: { id, kind: 'REJECT', reason: err.reason } });
  }
}

// sync asks a peer for what we lack, first for what is near our head.
async function sync(peer) {
  if (syncing.has(peer)) return;
  syncing.add(peer);
  try {
    for (const from of [Math.max(1, chain.head.height - BACK), 1]) {
      if (await fetch(peer, from)) return;
    }
  } catch (err) {
    if (err instanceof Fault) await call('ReportPeer', { peer, reason: err.reason, detail: err.message });
    log('sync with', peer, 'failed:', err.message);
  } finally {
    syncing.delete(peer);
  }
}

// fetch takes the blocks of a peer, and tells whether they fit to ours.
async function fetch(peer, from) {
  const request = { peer, protocol: SYNC, data: Buffer.from(JSON.stringify({ from })), deadline_ms: 0 };
  for await (const part of client.Request(request, metadata)) {
    for (const line of part.data.toString('utf8').split('\n')) {
      try {
        await take(chain.check(Buffer.from(line)));
      } catch (err) {
        if (err instanceof Fault && err.reason === 'orphan') return false;
        throw err;
      }
    }
  }
  return true;
}

// serve answers a request for blocks.
function serve(stream, { id, data }) {
  let from;
  try {
    ({ from } = JSON.parse(data.toString('utf8')));
  } catch { /* undefined is refused below */ }
  if (!Number.isSafeInteger(from)) {
    stream.write({ reply: { id, last: true, error: 'want {"from": height}' } });
    return;
  }
  const blocks = chain.from(from);
  while (blocks.length > BATCH) stream.write({ reply: { id, data: lines(blocks.splice(0, BATCH)) } });
  stream.write({ reply: { id, data: lines(blocks), last: true } });
}

const lines = (blocks) => Buffer.from(blocks.map((b) => b.data.toString('utf8')).join('\n'));

// attach is the program's life with its node; it begins anew when it ends.
function attach() {
  const stream = client.Attach(metadata);
  stream.write({ hello: {
    name: 'text-chain', api: 1, genesis_hash: Buffer.from(chain.genesis, 'hex'),
    topics: [{ name: TOPIC, max_bytes: 8192, validate: true }], protocols: [{ name: SYNC }],
  } });
  const run = (promise) => promise.catch((err) => log('failed:', err.message));
  stream.on('data', (m) => {
    switch (m.msg) {
      case 'welcome':
        self = m.welcome.peer;
        log('attached to', self, 'of network', m.welcome.net);
        run(tellHead());
        break;
      case 'validate':
        run(judge(stream, m.validate));
        break;
      case 'incoming':
        serve(stream, m.incoming);
        break;
      case 'status': // it may be ahead: what it claims is proved by its blocks
        if (m.status.height > chain.head.height) run(sync(m.status.peer));
        break;
      default: // message: our own came back; gone: nothing is kept of peers
    }
  });
  stream.on('error', (err) => log('detached:', err.message));
  stream.on('end', () => stream.end());
  stream.on('close', () => setTimeout(attach, 1000));
}

readline.createInterface({ input: process.stdin }).on('line', async (text) => {
  const data = chain.make(key, text);
  try {
    await take(chain.check(data));
  } catch (err) {
    log('not a block of ours:', err.message); // it is sent all the same: let the others judge
  }
  call('Publish', { topic: TOPIC, data }).catch((err) => log('not published:', err.message));
}).on('close', () => process.exit(0));

attach();
