// Signs files through the key of a workload, in Node alone: no dependencies.
//
//   node run.mjs [--workload-id ID] [FILE…]
//
// Started without a signer it starts itself once more under `evanesce run`, which gives it one: a
// key that exists only inside its worker and is gone when this program ends. Then it speaks the
// ssh-agent protocol to SSH_AUTH_SOCK, writes FILE.sig as `ssh-keygen -Y verify` reads it, and
// checks each signature itself. Works as well under `systemd-run --scope`.

import { spawn } from 'node:child_process';
import { createHash, createPublicKey, verify } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';

const AGENT_SIGN_REQUEST = 13;
const AGENT_SIGN_RESPONSE = 14;
const NAMESPACE = 'file';
const DEADLINE_MS = 30_000;

function parse(args) {
  const files = [];
  let workload;
  for (let index = 0; index < args.length; index += 1) {
    if (args[index] === '--workload-id') {
      index += 1;
      workload = args[index];
      if (workload === undefined) throw new Error('--workload-id needs an ID');
    } else if (args[index].startsWith('--')) {
      throw new Error(`unknown option ${args[index]}`);
    } else {
      files.push(args[index]);
    }
  }
  // Without a file it signs itself, so that there is something to see.
  return { workload, files: files.length > 0 ? files : [fileURLToPath(import.meta.url)] };
}

// Starts this program again with a signer at its side, and ends as that ends.
function runWithSigner(workload, files) {
  const id = workload === undefined ? [] : ['--workload-id', workload];
  const own = [process.execPath, fileURLToPath(import.meta.url), ...files];
  const child = spawn(process.env.EVANESCE ?? 'evanesce', ['run', ...id, '--', ...own], {
    stdio: 'inherit',
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => fail(`evanesce cannot be started: ${error.message}`));
  child.on('exit', (status, signal) => {
    process.exitCode = signal === null ? status : 1;
  });
}

// RFC 4251, section 5: a length of four bytes, then the bytes.
function string(bytes) {
  const data = Buffer.from(bytes);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, data]);
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  string() {
    if (this.at + 4 > this.bytes.length) throw new Error('a length is cut off');
    const end = this.at + 4 + this.bytes.readUInt32BE(this.at);
    if (end > this.bytes.length) throw new Error('a string is cut off');
    const string = this.bytes.subarray(this.at + 4, end);
    this.at = end;
    return string;
  }
}

// One request and its answer (draft-ietf-sshm-ssh-agent).
function ask(request) {
  return new Promise((resolve, reject) => {
    const socket = connect(process.env.SSH_AUTH_SOCK);
    let answer = Buffer.alloc(0);
    socket.setTimeout(DEADLINE_MS, () => socket.destroy(new Error('the agent does not answer')));
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the agent closed the connection')));
    socket.on('data', (data) => {
      answer = Buffer.concat([answer, data]);
      if (answer.length < 4 || answer.length < 4 + answer.readUInt32BE(0)) return;
      resolve(answer.subarray(4, 4 + answer.readUInt32BE(0)));
      socket.destroy();
    });
    socket.write(string(request));
  });
}

async function signature(keyBlob, message) {
  const flags = Buffer.alloc(4);
  const request = [Buffer.from([AGENT_SIGN_REQUEST]), string(keyBlob), string(message), flags];
  const answer = await ask(Buffer.concat(request));
  if (answer[0] !== AGENT_SIGN_RESPONSE) throw new Error('the signer refuses to sign this');
  return new Reader(answer.subarray(1)).string();
}

// PROTOCOL.sshsig of OpenSSH: what is signed, and how it is written down.
async function signFile(path, certificate, publicKey) {
  const hash = createHash('sha512').update(readFileSync(path)).digest();
  const fields = [string(NAMESPACE), string(''), string('sha512')];
  const message = Buffer.concat([Buffer.from('SSHSIG'), ...fields, string(hash)]);
  const blob = await signature(certificate, message);
  const reader = new Reader(blob);
  const [algorithm, bytes] = [reader.string().toString(), reader.string()];
  if (algorithm !== 'ssh-ed25519' || !verify(null, message, publicKey, bytes)) {
    throw new Error(`the signature of ${path} does not verify`);
  }
  const version = Buffer.from([0, 0, 0, 1]);
  const parts = [Buffer.from('SSHSIG'), version, string(certificate), ...fields, string(blob)];
  const lines = Buffer.concat(parts).toString('base64').match(/.{1,70}/g);
  const armored = ['-----BEGIN SSH SIGNATURE-----', ...lines, '-----END SSH SIGNATURE-----', ''];
  writeFileSync(`${path}.sig`, armored.join('\n'), { flag: 'wx' });
}

async function sign(files) {
  // `ssh-ed25519 BASE64 COMMENT`, and the same of the certificate that vouches for it.
  const blobOf = (line) => Buffer.from(line.split(' ')[1], 'base64');
  const plain = new Reader(blobOf(process.env.EVANESCE_PUBLIC_KEY));
  plain.string();
  const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), plain.string()]);
  const publicKey = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  const certificate = blobOf(readFileSync(process.env.EVANESCE_PUBLIC_KEY_FILE, 'utf8'));
  for (const file of files) {
    await signFile(file, certificate, publicKey);
    console.log(`signed ${file} as workload ${process.env.EVANESCE_WORKLOAD_ID}`);
  }
}

function fail(message) {
  console.error(`run.mjs: ${message}`);
  process.exitCode = 1;
}

try {
  const { workload, files } = parse(process.argv.slice(2));
  if (process.env.EVANESCE_WORKLOAD_ID === undefined) runWithSigner(workload, files);
  else await sign(files);
} catch (error) {
  fail(error.message);
}
