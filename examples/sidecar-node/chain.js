'use strict';

// The rules of the chain, and nothing about peers: blocks of text, each signed
// by one of the authorities. The highest block wins; of two as high, the one
// with the lower hash. All is kept in memory, for this is an example.

const crypto = require('node:crypto');

const MAX_TEXT = 1000; // characters
const MAX_AHEAD_MS = 10_000; // of a block's time before our clock

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');

// Fault is what is wrong with a block. reason is one that the node knows, or
// 'orphan' where the block before it is missing, which is nobody's fault.
class Fault extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

class Chain {
  // authorities are Ed25519 public keys in hex.
  constructor(authorities) {
    this.authorities = [...authorities].sort();
    this.genesis = sha256(JSON.stringify(['text-chain/1', this.authorities]));
    this.blocks = new Map(); // by hash
    this.head = { height: 0, hash: this.genesis, prev: '', time: 0, text: '' };
  }

  // make signs a block on top of the head. key is a private KeyObject.
  make(key, text) {
    const author = publicKeyOf(key);
    const content = [this.head.height + 1, this.head.hash, Date.now(), author, text];
    return encode(content, crypto.sign(null, contentBytes(content), key).toString('hex'));
  }

  // check reads a block and says all that is wrong with it by itself and with
  // its place in the chain. It throws a Fault.
  check(data) {
    const block = decode(data);
    if (!this.authorities.includes(block.author)) {
      throw new Fault('forged_block', `author ${block.author} is no authority`);
    }
    if (!verify(block)) throw new Fault('forged_block', 'the signature is wrong');
    if (block.text.length > MAX_TEXT) throw new Fault('invalid_block', `more than ${MAX_TEXT} characters`);
    if (block.time > Date.now() + MAX_AHEAD_MS) throw new Fault('orphan', 'from the future');
    const before = block.prev === this.genesis ? { height: 0, time: 0 } : this.blocks.get(block.prev);
    if (!before) throw new Fault('orphan', `block ${block.prev} is not known`);
    if (block.height !== before.height + 1) throw new Fault('invalid_block', `height ${block.height} after ${before.height}`);
    if (block.time < before.time) throw new Fault('invalid_block', 'older than the block before');
    return block;
  }

  // add takes a checked block, and tells whether it is the new head.
  add(block) {
    if (this.blocks.has(block.hash)) return false;
    this.blocks.set(block.hash, block);
    if (!better(block, this.head)) return false;
    this.head = block;
    return true;
  }

  // from lists the blocks of the head's chain from a height on, oldest first.
  from(height) {
    const list = [];
    for (let b = this.head; b.height > 0 && b.height >= height; b = this.blocks.get(b.prev) ?? { height: 0 }) list.push(b);
    return list.reverse();
  }
}

const better = (a, b) => a.height > b.height || (a.height === b.height && a.hash < b.hash);

const contentBytes = (content) => Buffer.from(JSON.stringify(content));

const encode = (content, sig) => Buffer.from(JSON.stringify([...content, sig]));

function decode(data) {
  let v;
  try {
    v = JSON.parse(data.toString('utf8'));
  } catch {
    throw new Fault('malformed', 'no JSON');
  }
  const hex = (s, bytes) => typeof s === 'string' && s.length === 2 * bytes && /^[0-9a-f]*$/.test(s);
  const ok = Array.isArray(v) && v.length === 6 && Number.isSafeInteger(v[0]) && v[0] > 0 && hex(v[1], 32) &&
    Number.isSafeInteger(v[2]) && v[2] > 0 && hex(v[3], 32) && typeof v[4] === 'string' && hex(v[5], 64);
  // One block has one form: other spaces would be another message with the same block.
  if (!ok || !Buffer.from(JSON.stringify(v)).equals(data)) throw new Fault('malformed', 'no block');
  const [height, prev, time, author, text, sig] = v;
  const content = contentBytes(v.slice(0, 5));
  return { height, prev, time, author, text, sig, content, data, hash: sha256(content) };
}

const spki = Buffer.from('302a300506032b6570032100', 'hex'); // the head of an Ed25519 public key

function verify(block) {
  const key = crypto.createPublicKey({ key: Buffer.concat([spki, Buffer.from(block.author, 'hex')]), format: 'der', type: 'spki' });
  return crypto.verify(null, block.content, key, Buffer.from(block.sig, 'hex'));
}

const publicKeyOf = (key) => crypto.createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(spki.length).toString('hex');

// keyOf makes the private key of a seed of 32 bytes.
const keyOf = (seed) => crypto.createPrivateKey({
  key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]), format: 'der', type: 'pkcs8',
});

module.exports = { Chain, Fault, keyOf, publicKeyOf };
