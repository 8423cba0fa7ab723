// Verifies one bundle with Sigstore's own verifier for Node, which knows nothing of evanesce:
//
//     node verify_bundle.mjs BUNDLE TRUSTED-ROOT NOTARY-PEM[,NOTARY-PEM] ARTIFACT [TIMESTAMPS]
//
// `@sigstore/verify` 4.1.3 has to be installed where Node looks for it (NODE_PATH does not count for
// modules: run it from a directory with node_modules). TIMESTAMPS is how many verified times there
// have to be, 0 where it is left out. Prints `accepted`, or `refused: ` and the reason with status 1.
import { createHash, createPublicKey } from 'node:crypto';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire(process.cwd() + '/');
const { bundleFromJSON } = require('@sigstore/bundle');
const { TrustedRoot } = require('@sigstore/protobuf-specs');
const { Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify');

const [bundleFile, rootFile, keyFiles, artifactFile, timestamps] = process.argv.slice(2);
try {
  const text = readFileSync(bundleFile, 'utf8');
  const root = TrustedRoot.fromJSON(JSON.parse(readFileSync(rootFile, 'utf8')));
  const always = { start: new Date(0), end: undefined };
  const keys = {};
  for (const file of keyFiles.split(',')) {
    const spki = createPublicKey(readFileSync(file)).export({ type: 'spki', format: 'der' });
    const hint = 'sha256:' + createHash('sha256').update(spki).digest('hex');
    keys[hint] = { rawBytes: spki, keyDetails: 'PKIX_ECDSA_P256_SHA_256', validFor: always };
  }
  const artifact = readFileSync(artifactFile);
  const bundle = bundleFromJSON(JSON.parse(text));
  const entity = toSignedEntity(bundle, artifact);
  const verifier = new Verifier(toTrustMaterial(root, keys), {
    tlogThreshold: 1,
    ctlogThreshold: 0,
    timestampThreshold: Number(timestamps ?? 0),
  });
  verifier.verify(entity);
  // What the statement is about is for whoever reads it: the verifier checks who signed it.
  const statement = JSON.parse(bundle.content.dsseEnvelope.payload.toString());
  const digest = createHash('sha256').update(artifact).digest('hex');
  if (!statement.subject.some((subject) => subject.digest.sha256 === digest)) {
    throw new Error('the statement is about another file');
  }
  console.log('accepted');
} catch (error) {
  console.log(`refused: ${error.message}`);
  process.exit(1);
}
