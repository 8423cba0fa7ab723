//! A release that goes through, and everything that is refused: tampered with, cut, swapped, late,
//! of another step, session, key, request, machine or holder. Each case is refused for its reason.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "../../appraisal/tests/support/der.rs"]
mod der;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../appraisal/tests/support/genoa.rs"]
mod genoa;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../appraisal/tests/snp_rules/pki.rs"]
mod snp_pki;

use std::time::Duration;

use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::{AttestationResult, KeyRelease, Predicate as _, Timestamp};
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::{INSECURE_SOFTWARE_TAG, Subject, provider};
use evanesce_release::{Asked, Challenge, Pending, Refusal, ReleaseError, Request};
use serde_json::{Value, json};
use support::{LIFETIME, NOW, Notary, SEALED, World, after, key, release, release_key, session};

#[test]
fn a_key_goes_to_the_worker_that_asked_and_both_sides_know_the_same_transcript() {
    let world = World::new();
    let pending = world.pending(1, release_key(6));

    let answered = world.answer(&pending, 1);
    let accepted = pending.receive(answered.line.as_bytes(), after(1)).unwrap();

    assert_eq!(accepted.sealed, SEALED);
    assert_eq!(accepted.context.public_key, key(2));
    assert_eq!(accepted.received.transcript, answered.row.transcript);
    assert_eq!(accepted.received.holder, world.holder.key.id());
    assert_eq!(
        (answered.release.release_key, answered.release.tee),
        (release_key(6), "snp".into())
    );
}

/// One thing that is wrong, and the code of the reason.
type Case = (&'static str, &'static str, fn(&World) -> Result<(), ReleaseError>);

#[test]
fn every_message_that_is_not_the_one_that_is_due_is_refused_for_its_own_reason() {
    let world = World::new();
    let cases = [CHALLENGES, EVIDENCE, REQUESTS, ANSWERS].concat();
    assert!(cases.len() >= 40, "{} cases", cases.len());

    for (name, code, refused) in cases {
        match refused(&world) {
            Ok(()) => panic!("{name}: accepted"),
            Err(error) => assert_eq!(error.code(), code, "{name}: {error}"),
        }
    }
}

/// What an asker is shown instead of the challenge.
const CHALLENGES: &[Case] = &[
    ("a space in it", "release.spelling", |w| read(w.challenge(1).to_text().replace(',', ", "))),
    ("a member more", "release.spelling", |w| challenge_with(w, "note", json!("hello"))),
    ("members in another order", "release.spelling", |w| {
        read(
            w.challenge(1)
                .to_text()
                .replace("\"v\":1,\"type\":\"challenge\"", "\"type\":\"challenge\",\"v\":1"),
        )
    }),
    ("a member twice", "release.parse", |w| {
        let line = w.challenge(1).to_text();
        read(line.replace("{\"v\":1", "{\"v\":1,\"v\":1"))
    }),
    ("a member less", "release.parse", |w| {
        let mut value: Value = serde_json::from_str(&w.challenge(1).to_text()).unwrap();
        value.as_object_mut().unwrap().remove("expires");
        read(value.to_string())
    }),
    ("digits in upper case", "release.parse", |w| {
        let session = "ab".repeat(32);
        challenge_with(w, "session", json!(session.to_uppercase()))
    }),
    ("a later version", "release.version", |w| {
        read(w.challenge(1).to_text().replace("\"v\":1", "\"v\":2"))
    }),
    ("a request", "release.out-of-order", |w| small(w.pending(1, release_key(6)).to_text())),
    ("an answer", "release.out-of-order", |w| {
        small(&w.answer(&w.pending(1, release_key(6)), 1).line)
    }),
    ("more bytes than one has", "release.too-long", |w| {
        read(w.challenge(1).to_text() + &" ".repeat(1024))
    }),
    ("no time at all", "release.lifetime", |w| lifetime(w, Duration::ZERO)),
    ("more than an hour", "release.lifetime", |w| lifetime(w, Duration::from_secs(3601))),
    ("an end before its beginning", "release.lifetime", |w| {
        challenge_with(w, "expires", json!("2020-01-01T00:00:00.000Z"))
    }),
    ("another holder's", "release.other-holder", |w| {
        Asked::accept(w.challenge(1), &Notary::new(2).key, None, NOW).map(drop)
    }),
    ("about another key", "release.other-public-key", |w| {
        Asked::accept(w.challenge(1), &w.holder.key, Some(&key(9)), NOW).map(drop)
    }),
    ("one that is over", "release.expired", |w| {
        Asked::accept(w.challenge(1), &w.holder.key, None, after(120)).map(drop)
    }),
];

/// Evidence that an asker would send.
const EVIDENCE: &[Case] = &[
    ("of a signer's identity", "release.purpose", |w| {
        show(w, Subject::SigningIdentity { public_key: key(2) }, 1)
    }),
    ("of an installation", "release.purpose", |w| show(w, Subject::Installation {}, 1)),
    ("for another key", "release.other-public-key", |w| {
        show(w, release(key(9), release_key(6)), 1)
    }),
    ("for another challenge", "release.nonce", |w| show(w, release(key(2), release_key(6)), 2)),
    ("with the session for a nonce", "release.nonce", |w| {
        let evidence = w.evidence(release(key(2), release_key(6)), session(1));
        w.asked(1).request(evidence).map(drop)
    }),
];

/// What a holder is sent to the challenge of session 1.
const REQUESTS: &[Case] = &[
    ("a challenge", "release.out-of-order", |w| admit(w, &w.challenge(1).to_text())),
    ("an answer", "release.out-of-order", |w| {
        admit(w, &w.answer(&w.pending(1, release_key(6)), 1).line)
    }),
    ("a later version", "release.version", |w| {
        admit(w, &request(w).replacen("\"v\":1", "\"v\":3", 1))
    }),
    ("a newline in it", "release.spelling", |w| admit(w, &(request(w) + "\n"))),
    ("a member more in the evidence", "release.parse", |w| {
        change_request(w, |value| value["evidence"]["extra"] = json!(1))
    }),
    ("a configuration that is not bound", "release.parse", |w| {
        change_request(w, |value| value["evidence"]["configuration"] = json!("{}"))
    }),
    ("more bytes than one has", "release.too-long", |w| {
        admit(w, &(request(w) + &" ".repeat(256 * 1024)))
    }),
    ("of another session", "release.other-session", |w| {
        admit(w, w.pending(2, release_key(6)).to_text())
    }),
    ("of another session, under this one's name", "release.other-challenge", |w| {
        let line = w.pending(2, release_key(6)).to_text().to_owned();
        admit(w, &line.replacen(&session(2).to_string(), &session(1).to_string(), 1))
    }),
    ("to a challenge that counts for longer", "release.other-challenge", |w| {
        let longer = Challenge::new(session(1), key(2), w.holder.key.id(), NOW, 2 * LIFETIME)?;
        let asked = Asked::accept(longer, &w.holder.key, None, NOW)?;
        let evidence = w.evidence(release(key(2), release_key(6)), asked.nonce());
        admit(w, asked.request(evidence)?.to_text())
    }),
    ("to a challenge for another key", "release.other-challenge", |w| {
        let other = Challenge::new(session(1), key(9), w.holder.key.id(), NOW, LIFETIME)?;
        let asked = Asked::accept(other, &w.holder.key, None, NOW)?;
        let evidence = w.evidence(release(key(9), release_key(6)), asked.nonce());
        admit(w, asked.request(evidence)?.to_text())
    }),
    ("at the moment the challenge ends", "release.expired", |w| {
        w.admit(&request(w), &w.challenge(1), after(120)).map(drop)
    }),
    ("long after it", "release.expired", |w| {
        w.admit(&request(w), &w.challenge(1), after(86_400)).map(drop)
    }),
    ("evidence of a signer's identity", "release.purpose", |w| {
        let subject = Subject::SigningIdentity { public_key: key(2) };
        with_evidence(w, &w.evidence(subject, w.challenge(1).nonce()))
    }),
    ("evidence for another key", "release.other-public-key", |w| {
        let subject = release(key(9), release_key(6));
        with_evidence(w, &w.evidence(subject, w.challenge(1).nonce()))
    }),
    ("evidence of an earlier session", "release.nonce", |w| {
        let subject = release(key(2), release_key(6));
        with_evidence(w, &w.evidence(subject, w.challenge(2).nonce()))
    }),
    ("an appraisal of another worker's evidence", "release.not-appraised", |w| {
        let challenge = w.challenge(1);
        let other = w.evidence(release(key(2), release_key(7)), challenge.nonce());
        let admitted = w.admit(&request(w), &challenge, NOW)?;
        admitted.approve(&w.trusted(&other, &challenge), w.policy.digest()).map(drop)
    }),
];

/// What an asker is sent back.
const ANSWERS: &[Case] = &[
    ("a challenge", "release.out-of-order", |w| receive(w, &w.challenge(1).to_text())),
    ("more bytes than one has", "release.too-long", |w| {
        receive(w, &(request(w) + &" ".repeat(8192)))
    }),
    ("a hello", "release.out-of-order", |w| receive(w, "{\"v\":1,\"type\":\"hello\"}")),
    ("a later version", "release.version", |w| {
        receive(w, &answer(w).replacen("\"v\":1", "\"v\":2", 1))
    }),
    ("a space in it", "release.spelling", |w| receive(w, &answer(w).replacen(',', ", ", 1))),
    ("a member more in the envelope", "release.parse", |w| {
        change_answer(w, |value| value["release"]["extra"] = json!(1))
    }),
    ("fewer sealed bytes", "release.parse", |w| {
        change_answer(w, |value| value["sealed"] = json!("XV5eXg"))
    }),
    ("one that is late", "release.expired", |w| {
        pending(w).receive(answer(w).as_bytes(), after(120)).map(drop)
    }),
    ("one of another session", "release.other-session", |w| {
        receive(w, &w.answer(&w.pending(2, release_key(6)), 2).line)
    }),
    ("one of another session, under this one's name", "release.other-session", |w| {
        let line = w.answer(&w.pending(2, release_key(6)), 2).line;
        receive(w, &line.replacen(&session(2).to_string(), &session(1).to_string(), 1))
    }),
    ("the answer to another worker in this session", "release.other-request", |w| {
        receive(w, &w.answer(&w.pending(1, release_key(7)), 1).line)
    }),
    ("another holder's", "release.signature", |w| signed_by(w, &Notary::new(2), |_| {})),
    ("a changed signature", "release.parse", |w| {
        change_answer(w, |value| value["release"]["signatures"][0]["sig"] = json!("MAA="))
    }),
    ("another statement's signature", "release.signature", |w| {
        let other: Value =
            serde_json::from_str(&w.answer(&w.pending(2, release_key(6)), 2).line).unwrap();
        change_answer(w, |value| {
            value["release"]["signatures"] = other["release"]["signatures"].clone();
        })
    }),
    ("another statement of the holder's", "release.signature", |w| {
        let envelope = result(w);
        change_answer(w, |value| value["release"] = serde_json::to_value(envelope).unwrap())
    }),
    ("a sealed key that was changed", "release.sealed", |w| {
        change_answer(w, |value| value["sealed"] = json!(base64(&[0x5f; 80])))
    }),
    ("about another challenge", "release.other-challenge", |w| {
        signed(w, |release| release.challenge = Digest::of(b"other"))
    }),
    ("about another request", "release.other-request", |w| {
        signed(w, |release| release.request = Digest::of(b"other"))
    }),
    ("about another key", "release.other-public-key", |w| {
        signed(w, |release| release.public_key = key(9))
    }),
    ("about another release key", "release.other-release-key", |w| {
        signed(w, |release| release.release_key = release_key(9))
    }),
    ("about other evidence", "release.other-evidence", |w| {
        signed(w, |release| release.evidence = Digest::of(b"other"))
    }),
    ("about another sealed key", "release.sealed", |w| {
        signed(w, |release| release.sealed = Digest::of(b"other"))
    }),
    ("a refusal", "release.refused", |w| {
        receive(w, &Refusal::new("release.policy", "not you").to_text())
    }),
];

#[test]
fn a_message_that_was_cut_at_any_byte_is_refused() {
    let world = World::new();
    let (challenge, request, answer) =
        (world.challenge(1).to_text(), request(&world), answer(&world));

    for end in 0..challenge.len() {
        Challenge::from_text(&challenge.as_bytes()[..end]).unwrap_err();
    }
    for end in (0..request.len()).step_by(7) {
        Request::from_text(&request.as_bytes()[..end]).unwrap_err();
    }
    let pending = pending(&world);
    for end in (0..answer.len()).step_by(3) {
        pending.clone().receive(&answer.as_bytes()[..end], NOW).unwrap_err();
    }
}

/// What arrives in one piece and was changed is refused by a check, or by the appraisal.
#[test]
fn evidence_that_a_policy_does_not_accept_never_becomes_a_proof() {
    let mut world = World::new();
    let challenge = world.challenge(1);
    let genuine = world.evidence(release(key(2), release_key(6)), challenge.nonce());
    let failures = |world: &World, evidence: &EvidenceEnvelope| {
        let appraisal = world.appraise(evidence, &challenge);
        let rules: Vec<_> = appraisal.failures().map(|check| check.rule).collect();
        assert!(appraisal.into_trusted().is_err(), "{rules:?}");
        rules
    };
    world.trusted(&genuine, &challenge);

    // Somebody on the way puts a release key of his own in,
    let mut swapped = genuine.clone();
    swapped.binding.subject = release(key(2), release_key(7));
    assert_eq!(failures(&world, &swapped), ["input.report-data"]);
    // or into the report,
    let mut changed = genuine.clone();
    changed.raw.outblob[0x50..0x90].copy_from_slice(&swapped.binding.report_data());
    changed.binding = swapped.binding.clone();
    assert_eq!(failures(&world, &changed), ["snp.report.signature"]);
    // or has no machine at all.
    let mut software = genuine.clone();
    software.raw.provider = provider::INSECURE_SOFTWARE.to_owned();
    software.raw.outblob = [INSECURE_SOFTWARE_TAG, &[7; 160]].concat();
    assert!(failures(&world, &software).contains(&"software.signature"));
    // And a policy for signers is none for releases.
    let identity = Subject::SigningIdentity { public_key: key(2) };
    world.policy = world.policy_of(&world.evidence(identity, challenge.nonce()));
    assert_eq!(failures(&world, &genuine), ["bound.purpose"]);
}

fn read(line: String) -> Result<(), ReleaseError> {
    Challenge::from_text(line.as_bytes()).map(drop)
}

/// The beginning of a message, whose type says what it is: the whole is longer than a challenge.
fn small(line: &str) -> Result<(), ReleaseError> {
    let value: Value = serde_json::from_str(line).unwrap();
    read(json!({"v": value["v"], "type": value["type"]}).to_string())
}

fn challenge_with(world: &World, member: &str, value: Value) -> Result<(), ReleaseError> {
    let line = world.challenge(1).to_text();
    let found: Value = serde_json::from_str(&line).unwrap();
    match found.get(member) {
        // In its place: the order of members is part of the spelling.
        Some(old) => {
            read(line.replace(&format!("{member}\":{old}"), &format!("{member}\":{value}")))
        }
        None => read(line.replace('}', &format!(",\"{member}\":{value}}}"))),
    }
}

fn lifetime(world: &World, lifetime: Duration) -> Result<(), ReleaseError> {
    Challenge::new(session(1), key(2), world.holder.key.id(), NOW, lifetime).map(drop)
}

/// Evidence about `subject` to the challenge of session `number`, sent in session 1.
fn show(world: &World, subject: Subject, number: u8) -> Result<(), ReleaseError> {
    let evidence = world.evidence(subject, world.challenge(number).nonce());
    world.asked(1).request(evidence).map(drop)
}

fn pending(world: &World) -> Pending {
    world.pending(1, release_key(6))
}

fn request(world: &World) -> String {
    pending(world).to_text().to_owned()
}

fn admit(world: &World, line: &str) -> Result<(), ReleaseError> {
    world.admit(line, &world.challenge(1), NOW).map(drop)
}

fn change_request(world: &World, change: impl FnOnce(&mut Value)) -> Result<(), ReleaseError> {
    let mut value: Value = serde_json::from_str(&request(world)).unwrap();
    change(&mut value);
    admit(world, &value.to_string())
}

/// A request in session 1 with evidence that its asker did not look at.
fn with_evidence(world: &World, evidence: &EvidenceEnvelope) -> Result<(), ReleaseError> {
    let challenge = world.challenge(1);
    let line = format!(
        "{{\"v\":1,\"type\":\"request\",\"session\":\"{}\",\"challenge\":\"{}\",\"evidence\":{}}}",
        challenge.session(),
        challenge.digest(),
        evidence.to_json()
    );
    admit(world, &line)
}

fn answer(world: &World) -> String {
    world.answer(&pending(world), 1).line
}

/// Evidence is signed anew each time, so that the request has to be the one that was answered.
fn receive(world: &World, line: &str) -> Result<(), ReleaseError> {
    pending(world).receive(line.as_bytes(), NOW).map(drop)
}

fn change_answer(world: &World, change: impl FnOnce(&mut Value)) -> Result<(), ReleaseError> {
    let pending = pending(world);
    let line = world.answer(&pending, 1).line;
    let mut value: Value = serde_json::from_str(&line).unwrap();
    change(&mut value);
    // As the message's own writer orders them.
    let line = format!(
        "{{\"v\":1,\"type\":\"answer\",\"session\":{},\"sealed\":{},\"release\":{}}}",
        value["session"],
        value["sealed"],
        in_order(&value["release"])
    );
    pending.receive(line.as_bytes(), NOW).map(drop)
}

/// An envelope's members in the order of its format.
fn in_order(envelope: &Value) -> String {
    let signature = &envelope["signatures"][0];
    let extra = envelope.get("extra").map_or(String::new(), |extra| format!(",\"extra\":{extra}"));
    format!(
        "{{\"payload\":{},\"payloadType\":{},\"signatures\":[{{\"keyid\":{},\"sig\":{}}}]{extra}}}",
        envelope["payload"], envelope["payloadType"], signature["keyid"], signature["sig"]
    )
}

/// An answer whose statement the holder signed after `change`.
fn signed(world: &World, change: impl FnOnce(&mut KeyRelease)) -> Result<(), ReleaseError> {
    signed_by(world, &world.holder, change)
}

fn signed_by(
    world: &World,
    notary: &Notary,
    change: impl FnOnce(&mut KeyRelease),
) -> Result<(), ReleaseError> {
    let pending = pending(world);
    let answered = world.answer(&pending, 1);
    let mut release = answered.release;
    change(&mut release);
    let envelope = serde_json::to_string(&notary.envelope(release)).unwrap();
    let line = format!(
        "{{\"v\":1,\"type\":\"answer\",\"session\":\"{}\",\"sealed\":\"{}\",\"release\":{envelope}}}",
        session(1),
        base64(&SEALED)
    );
    pending.receive(line.as_bytes(), NOW).map(drop)
}

/// Another kind of statement by the holder's notary.
fn result(world: &World) -> evanesce_ledger::Envelope {
    let evidence = world.evidence(release(key(2), release_key(6)), session(1));
    let result = AttestationResult {
        evidence: evidence.digest(),
        public_key: Some(key(2)),
        notary: evidence.binding.notary,
        purpose: "key-release".into(),
        nonce: session(1),
        signer: evidence.binding.signer,
        worker: evidence.binding.worker,
        configuration: evidence.binding.configuration,
        tee: "snp".into(),
        measurement: "14".repeat(48),
        policy: world.policy.digest(),
        appraised_at: NOW,
        expires: Timestamp::from_unix_ms(NOW.unix_ms() + 1),
        not_checked: Vec::new(),
    };
    result.sign(world.holder.key.id(), |bytes| world.holder.sign(bytes)).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    Base64UrlUnpadded::encode_string(bytes)
}

#[test]
fn a_refusal_is_shown_as_text_whatever_characters_it_has() {
    let world = World::new();
    let refusal = Refusal::new("x\u{1b}[2J", &"\u{1b}]0;title\u{7}".repeat(200)).to_text();

    let error = pending(&world).receive(refusal.as_bytes(), NOW).unwrap_err();

    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    // Nor does what is wrong with a message repeat what a terminal would obey.
    let line = request(&world).replacen("\"cmw\"", "\"\\u001b[2J\"", 1);
    let error = Request::from_text(line.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("[2J"), "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}
