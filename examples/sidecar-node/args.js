'use strict';

// The command line, and what is said where it is wrong: no stack, but what to do.

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { keyOf } = require('./chain.js');

const USAGE = `usage: node main.js --node unix:DATA_DIR/parley.sock --seed FILE --authorities HEX,HEX
       node main.js --seed FILE --print-key

  --node         the parley node: unix:PATH of its local socket, or HOST:PORT with PARLEY_TOKEN in the environment
  --seed         file of 64 hex digits, who we are: openssl rand -hex 32 > FILE
  --authorities  public keys of those who may make blocks, by comma
  --print-key    print the public key of the seed, and end
  --proto        directory of parley's .proto files (../../api/proto)

The node is started by: parley run --set network=sidecar --set network_name=text --data-dir DATA_DIR`;

const options = {
  node: { type: 'string' },
  seed: { type: 'string' },
  authorities: { type: 'string' },
  proto: { type: 'string', default: path.join(__dirname, '../../api/proto') },
  'print-key': { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
};

// fail ends the program: 2 = it was called wrongly, 1 = something is missing.
function fail(code, why) {
  console.error(code === 2 ? `error: ${why}\n\n${USAGE}` : `error: ${why}`);
  process.exit(code);
}

// readArgs gives the values of the flags, key (of the seed) and authorities (a
// list) among them.
function readArgs() {
  let args;
  try {
    args = parseArgs({ options }).values;
  } catch (err) {
    fail(2, err.message);
  }
  if (args.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const needed = args['print-key'] ? ['seed'] : ['node', 'seed', 'authorities'];
  const lacking = needed.filter((name) => !args[name]);
  if (lacking.length > 0) fail(2, `--${lacking.join(' and --')} must be given`);
  args.key = readSeed(args.seed);
  args.authorities = (args.authorities ?? '').split(',').filter((hex) => hex !== '');
  const wrong = args.authorities.find((hex) => !/^[0-9a-f]{64}$/.test(hex));
  if (wrong !== undefined) fail(2, `--authorities has ${JSON.stringify(wrong)}: want 64 lower-case hex digits, as --print-key prints them`);
  return args;
}

function readSeed(file) {
  let text;
  try {
    text = fs.readFileSync(file, 'utf8').trim();
  } catch (err) {
    fail(1, `--seed: ${err.message}: make it by openssl rand -hex 32 > ${file}`);
  }
  if (!/^[0-9a-fA-F]{64}$/.test(text)) fail(1, `--seed ${file}: want a file of 64 hex digits, as openssl rand -hex 32 prints them`);
  return keyOf(Buffer.from(text, 'hex'));
}

// load requires a package that npm installs.
function load(name) {
  try {
    return require(name);
  } catch (err) {
    if (err.code !== 'MODULE_NOT_FOUND') throw err;
    return fail(1, `the package ${name} is not installed: run npm ci in ${__dirname}`);
  }
}

module.exports = { readArgs, load, fail };
