//! Bundles of all kinds, frozen and fresh: accepted as they are, refused with the reason once
//! anything in them was changed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../ledger/tests/support/mod.rs"]
mod ledgers;

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey};
use evanesce_ledger::record::{ArtifactRecord, Sha512Digest, SshSignature};
use evanesce_ledger::rotation::{HandoverSignatures, KeyRotation, KeySignature};
use evanesce_ledger::row::{KeyRotatedRow, NotaryRow, StatementRow};
use evanesce_ledger::{Envelope, Event, NewRow, Outcome, Predicate as _, SignatureRecord};
use evanesce_protocol::commitment::request_of_message;
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use evanesce_protocol::{Digest, KeyUse, PublicKey};
use evanesce_transparency::trust::{
    HandedOver, Order, Place, local_trusted_root, parse_trusted_root,
};
use evanesce_transparency::verify::StatementKind;
use evanesce_transparency::{
    Bundle, BundleVerdict, Given, KnownNotary, KnownRotation, KnownRotations, LogDirectory,
    LogReader, Sources, entry, extend, verify_bundle,
};
use ledgers::{Life, TestNotary, at};
use serde_json::Value;
use sha2::{Digest as _, Sha512};

const KINDS: [&str; 4] = ["signature", "receipt", "key-rotation", "notary-rotation"];

/// One bundle and all that is needed to judge it.
struct Sample {
    bundle: Vec<u8>,
    artifact: Vec<u8>,
    root: String,
    notary: TestNotary,
}

impl Sample {
    fn frozen(kind: &str) -> Self {
        let read = |name: String| fs::read(samples().join(name)).unwrap();
        Self {
            bundle: read(format!("{kind}.sigstore.json")),
            artifact: read(format!("{kind}.artifact")),
            root: String::from_utf8(read("trusted_root.json".into())).unwrap(),
            notary: TestNotary::new(1),
        }
    }

    fn verify(&self) -> BundleVerdict {
        self.verify_with(&self.bundle, &[KnownNotary::of_key(self.notary.key.clone())])
    }

    fn verify_with(&self, bundle: &[u8], notaries: &[KnownNotary]) -> BundleVerdict {
        self.judge(bundle, notaries, &KnownRotations::default())
    }

    fn judge(
        &self,
        bundle: &[u8],
        notaries: &[KnownNotary],
        rotations: &KnownRotations,
    ) -> BundleVerdict {
        let sha512 = Sha512::digest(&self.artifact).into();
        let sha256 = Digest::of(&self.artifact);
        let given = Given { sha256, sha512: &sha512, receipt: None, rotations };
        let root = parse_trusted_root(&self.root).unwrap();
        verify_bundle(bundle, root, notaries, &given).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.bundle).unwrap()
    }

    /// The verdict on the bundle after a change.
    fn changed(&self, change: impl FnOnce(&mut Value)) -> BundleVerdict {
        let mut json = self.json();
        change(&mut json);
        assert_ne!(json, self.json(), "nothing was changed");
        let text = serde_json::to_vec(&json).unwrap();
        self.verify_with(&text, &[KnownNotary::of_key(self.notary.key.clone())])
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

fn flip(value: &mut Value) {
    let text = value.as_str().unwrap();
    let at = text.len() / 2;
    let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
    *value = format!("{}{other}{}", &text[..at], &text[at + 1..]).into();
}

fn tlog_entry(json: &mut Value) -> &mut Value {
    &mut json["verificationMaterial"]["tlogEntries"][0]
}

/// They are in other people's hands: whatever is changed here, these hold for ever.
#[test]
fn the_frozen_bundles_of_all_kinds_hold() {
    let kinds = [
        StatementKind::Signature,
        StatementKind::Receipt,
        StatementKind::KeyRotation,
        StatementKind::NotaryRotation,
    ];
    for (kind, expected) in KINDS.iter().zip(kinds) {
        let verdict = Sample::frozen(kind).verify();
        assert_eq!(verdict.outcome, Outcome::Trusted, "{kind}: {}", verdict.reason);
        assert_eq!(verdict.kind, Some(expected));
        assert_eq!(verdict.log.unwrap().size, 4);
        assert!(!verdict.not_checked.is_empty());
    }
}

/// A change of one byte of this form would make every proof of every log worthless.
#[test]
fn the_entry_of_a_frozen_envelope_is_made_again_byte_for_byte() {
    for kind in KINDS {
        let sample = Sample::frozen(kind);
        let mut json = sample.json();
        let envelope: Envelope = serde_json::from_value(json["dsseEnvelope"].clone()).unwrap();
        let body = entry::body(&envelope, &sample.notary.key);
        let expected = tlog_entry(&mut json)["canonicalizedBody"].clone();
        let found = evanesce_transparency::bundle::Base64Bytes(body);
        assert_eq!(serde_json::to_value(found).unwrap(), expected, "{kind}");
    }
}

#[test]
fn what_was_changed_is_refused_with_the_reason() {
    for kind in KINDS {
        let sample = Sample::frozen(kind);
        let refused = |what: &str, verdict: BundleVerdict, reason: &str| {
            assert_eq!(verdict.outcome, Outcome::Invalid, "{kind}, {what}");
            let found = verdict.reason.to_lowercase();
            assert!(found.contains(reason), "{kind}, {what}: {found}");
        };
        let payload = |json: &mut Value| flip(&mut json["dsseEnvelope"]["payload"]);
        refused("payload", sample.changed(payload), "");
        let signature = |json: &mut Value| {
            let other = TestNotary::new(1).sign(b"something else").unwrap().to_der();
            let other = evanesce_transparency::bundle::Base64Bytes(other);
            json["dsseEnvelope"]["signatures"][0]["sig"] = serde_json::to_value(other).unwrap();
        };
        refused("signature", sample.changed(signature), "signature");
        let proof = |json: &mut Value| {
            flip(&mut tlog_entry(json)["inclusionProof"]["hashes"][0]);
        };
        refused("proof hash", sample.changed(proof), "inclusion proof");
        let checkpoint = |json: &mut Value| {
            let envelope = &mut tlog_entry(json)["inclusionProof"]["checkpoint"]["envelope"];
            *envelope = envelope.as_str().unwrap().replacen("\n4\n", "\n5\n", 1).into();
        };
        refused("checkpoint", sample.changed(checkpoint), "checkpoint");
        let time = |json: &mut Value| tlog_entry(json)["integratedTime"] = "1795313400".into();
        refused("time", sample.changed(time), "without its promise");
        let body = |json: &mut Value| flip(&mut tlog_entry(json)["canonicalizedBody"]);
        refused("entry", sample.changed(body), "");
        let unproven = |json: &mut Value| {
            tlog_entry(json).as_object_mut().unwrap().remove("inclusionProof");
        };
        refused("no proof", sample.changed(unproven), "proof");
        let nowhere = |json: &mut Value| {
            json["verificationMaterial"]["tlogEntries"] = Value::Array(vec![]);
        };
        refused("no log", sample.changed(nowhere), "");
        let other_hint = |json: &mut Value| {
            json["verificationMaterial"]["publicKey"]["hint"] = "another".into();
        };
        refused("hint", sample.changed(other_hint), "different keys");
        // Of another key that is known as well: the signature decides, not the name.
        let other = TestNotary::new(2).key;
        let mut swapped = sample.json();
        swapped["verificationMaterial"]["publicKey"]["hint"] = other.id().to_string().into();
        swapped["dsseEnvelope"]["signatures"][0]["keyid"] = other.id().to_string().into();
        let known = [&sample.notary.key, &other].map(|key| KnownNotary::of_key(key.clone()));
        let verdict = sample.verify_with(&serde_json::to_vec(&swapped).unwrap(), &known);
        refused("swapped key", verdict, "signature");
        for end in (0..sample.bundle.len() - 1).step_by(97) {
            let notary = [KnownNotary::of_key(sample.notary.key.clone())];
            let verdict = sample.verify_with(&sample.bundle[..end], &notary);
            assert_eq!(verdict.outcome, Outcome::Invalid, "{kind}, {end} bytes");
        }
    }
}

#[test]
fn another_file_or_another_key_is_not_what_was_signed() {
    let mut sample = Sample::frozen("signature");
    let stranger = [KnownNotary::of_key(TestNotary::new(2).key)];
    let verdict = sample.verify_with(&sample.bundle, &stranger);
    assert_eq!(verdict.outcome, Outcome::UnknownSigner);
    assert!(verdict.reason.contains("not known here"), "{}", verdict.reason);

    sample.artifact.push(b'!');
    let verdict = sample.verify();
    assert_eq!(verdict.outcome, Outcome::Invalid);
    assert!(verdict.reason.contains("artifact"), "{}", verdict.reason);
}

/// The proof is right, in a log that nobody named.
#[test]
fn an_entry_of_another_log_does_not_count() {
    let mut sample = Sample::frozen("signature");
    let other = KnownNotary::of_key(TestNotary::new(2).key);
    let id = evanesce_ledger::LedgerId::from_bytes([9; 32]);
    let origin = evanesce_transparency::note::Origin::of_ledger(id);
    sample.root = local_trusted_root(&origin, &[other]);

    let verdict = sample.verify();
    assert_eq!(verdict.outcome, Outcome::Invalid);
    assert!(
        verdict.reason.to_lowercase().contains("key found for checkpoint"),
        "{}",
        verdict.reason
    );
}

#[test]
fn fifty_megabytes_of_nesting_are_refused_at_once() {
    let sample = Sample::frozen("signature");
    let deep = vec![b'['; 50 * 1024 * 1024];
    let verdict = sample.verify_with(&deep, &[]);
    assert!(verdict.reason.contains("bytes"), "{}", verdict.reason);
    let shorter = vec![b'['; 1000 * 1000];
    let verdict = sample.verify_with(&shorter, &[]);
    assert_eq!(verdict.outcome, Outcome::Invalid);
}

/// The rotation is entry 2 of the sample's log, the signature entry 0.
#[test]
fn a_signature_by_a_generation_that_was_retired_before_is_refused() {
    let sample = Sample::frozen("signature");
    let notaries = [KnownNotary::of_key(sample.notary.key.clone())];
    let verdict = sample.verify();
    let (key, origin) = (verdict.public_key.unwrap(), verdict.log.unwrap().origin);
    let outcome = |index: Option<u64>, retired: bool| {
        let other = PublicKey::from_bytes([9; 32]);
        let (retired, successor) = if retired { (key, other) } else { (other, key) };
        let place = index.map(|index| Place { origin: origin.clone(), index });
        let handed_over = HandedOver { at: at(2), place };
        let rotation = KnownRotation { generation: 2, retired, successor, handed_over };
        let verdict = sample.judge(&sample.bundle, &notaries, &KnownRotations::new([rotation]));
        (verdict.outcome, verdict.reason)
    };

    assert_eq!(outcome(Some(2), true).0, Outcome::Trusted, "it signed before");
    assert_eq!(outcome(Some(2), false).0, Outcome::Trusted, "it signed after");
    let undated = outcome(None, true);
    assert_eq!(undated.0, Outcome::UnknownSigner, "{}", undated.1);

    let place = Place { origin: origin.clone(), index: 1 };
    let after = HandedOver { at: at(0), place: Some(Place { index: 0, ..place.clone() }) };
    assert_eq!(after.order(Some(&place), None), Order::After);
    let elsewhere = Place { origin: "another".into(), index: 0 };
    assert_eq!(after.order(Some(&elsewhere), None), Order::Unknown);
    assert_eq!(after.order(Some(&elsewhere), Some(at(0))), Order::Before);
    assert_eq!(after.order(Some(&elsewhere), Some(at(1))), Order::Unknown);
}

/// A statement of a notary that had handed over before counts for nothing; the handover does.
#[test]
fn what_a_retired_notary_signed_counts_by_its_place_in_the_log() {
    for (kind, expected) in [
        ("signature", Outcome::Trusted),
        ("key-rotation", Outcome::Invalid),
        ("notary-rotation", Outcome::Trusted),
    ] {
        let sample = Sample::frozen(kind);
        let origin = sample.verify().log.unwrap().origin;
        let place = Some(Place { origin, index: 1 });
        let until = Some(HandedOver { at: at(0), place });
        let notary = KnownNotary { since: None, until, key: sample.notary.key.clone() };
        let verdict = sample.verify_with(&sample.bundle, &[notary]);
        assert_eq!(verdict.outcome, expected, "{kind}: {}", verdict.reason);
    }
}

/// Makes the frozen samples. They are made once and never again: whoever runs this breaks what is
/// in other people's hands.
#[test]
#[ignore = "writes the frozen samples"]
fn make_the_samples() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger_dir, log) = (dir.path().join("ledger"), LogDirectory::new(&dir.path().join("log")));
    let (notary, second) = (TestNotary::new(1), TestNotary::new(2));
    let mut ledger = ledgers::open(&ledger_dir);
    ledger.append(&[notary.row(at(0))]).unwrap();

    let key = SigningKey::from_bytes(&[7; 32]);
    let public_key = PublicKey::from_bytes(key.verifying_key().to_bytes());
    let artifact = b"A file that was signed by a key that is gone.\n".to_vec();
    let sha512: [u8; 64] = Sha512::digest(&artifact).into();
    let message =
        SignedData { namespace: "file", hash: HashAlgorithm::Sha512, message_digest: &sha512 }
            .to_bytes();
    let request = request_of_message(&message);

    let mut life = Life::start(&mut ledger, "sample", 7);
    life.key = public_key;
    life.requests = evanesce_protocol::commitment::RequestCommitment::new(&public_key);
    life.load(&mut ledger);
    life.requests.extend(&request);
    let signed = evanesce_ledger::row::Signed { first: 1, requests: vec![request] };
    life.append(&mut ledger, Event::Signed(signed));
    let record = SignatureRecord {
        workload: life.workload.clone(),
        artifact: ArtifactRecord {
            name: "signature.artifact".into(),
            sha256: Digest::of(&artifact),
            sha512: Sha512Digest::from_bytes(sha512),
        },
        public_key,
        key_use: KeyUse::Message,
        signature: SshSignature {
            namespace: "file".into(),
            value: key.sign(&message).to_bytes().to_vec(),
        },
        request,
        ledger: ledgers::LEDGER,
        at: at(1),
    };
    let Ok(record) = record.sign(notary.key.id(), |bytes| notary.sign(bytes));
    life.append(&mut ledger, Event::Statement(StatementRow { envelope: record.clone() }));
    let receipt = life.receipt();
    let Ok(receipt) = receipt.sign(notary.key.id(), |bytes| notary.sign(bytes));
    let row = evanesce_ledger::row::ReceiptRow { envelope: receipt.clone() };
    life.append(&mut ledger, Event::Receipt(row));
    let next = SigningKey::from_bytes(&[8; 32]);
    let successor = PublicKey::from_bytes(next.verifying_key().to_bytes());
    let unsigned = HandoverSignatures {
        retired: KeySignature::from_bytes([0; 64]),
        successor: KeySignature::from_bytes([0; 64]),
    };
    let mut handover = KeyRotation {
        ledger: ledgers::LEDGER,
        generation: 2,
        retired: public_key,
        successor,
        at: at(2),
        previous: None,
        reason: "quarterly".into(),
        signatures: unsigned,
    };
    let bytes = handover.handover().signed_bytes();
    let by = |key: &SigningKey| KeySignature::from_bytes(key.sign(&bytes).to_bytes());
    handover.signatures = HandoverSignatures { retired: by(&key), successor: by(&next) };
    let Ok(handover) = handover.sign(notary.key.id(), |bytes| notary.sign(bytes));
    let row = KeyRotatedRow { envelope: handover.clone() };
    ledger.append(&[NewRow::of_ledger(at(2), Event::KeyRotated(row))]).unwrap();
    let rotation = evanesce_ledger::notary::NotaryRotation {
        ledger: ledgers::LEDGER,
        retired: notary.key.id(),
        successor: second.key.clone(),
        at: at(3),
        reason: "yearly".into(),
    };
    let Ok(rotation) = rotation.sign(|bytes| notary.sign(bytes));
    let row = NotaryRow {
        key_id: second.key.id(),
        public_key: second.key.clone(),
        rotation: Some(rotation.clone()),
    };
    ledger.append(&[NewRow::of_ledger(at(3), Event::Notary(row))]).unwrap();

    let keys = [notary.key.clone()];
    let sources = Sources { log: &log, ledger: &ledger_dir, keys: &keys };
    extend(sources, |text| Ok::<_, Infallible>((notary.key.clone(), notary.sign(text)?))).unwrap();
    let mut reader = LogReader::open(&log, &keys).unwrap().unwrap();
    let known = reader.notaries().unwrap();
    let root = local_trusted_root(&reader.checkpoint().origin, &known);
    fs::write(samples().join("trusted_root.json"), root).unwrap();
    fs::write(samples().join("notary.pem"), notary.key.to_pem()).unwrap();
    let artifacts = [
        artifact,
        public_key.as_bytes().to_vec(),
        successor.as_bytes().to_vec(),
        second.key.spki().to_vec(),
    ];
    for (index, (kind, artifact)) in KINDS.iter().zip(artifacts).enumerate() {
        let entries = [reader.log_entry(index as u64).unwrap()];
        let envelope = [&record, &receipt, &handover, &rotation][index];
        let bundle = Bundle::new(envelope, &entries, &[]).to_json();
        fs::write(samples().join(format!("{kind}.sigstore.json")), bundle).unwrap();
        fs::write(samples().join(format!("{kind}.artifact")), artifact).unwrap();
    }
}
