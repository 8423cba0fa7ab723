//! Streams in both directions, and the end of a firmware.

use evanesce_protocol::control::{SignerOrder, SignerReport, Strength};
use evanesce_protocol::evidence::{
    AttesterReport, CollectError, EvidenceSource, Nonce, NotaryPoint, RawEvidence, ReleaseKey,
};
use evanesce_protocol::machine::{FromMachine, ToMachine, Vouch, frame};
use evanesce_protocol::{Digest, PublicKey};

/// One byte that says what it is, for streams one that says how it is cut, and the bytes.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let public_key = PublicKey::from_bytes([7; 32]);
    let vouch = Vouch {
        public_key,
        release_key: Some(ReleaseKey::from_bytes([6; 32])),
        nonce: Nonce::from_bytes([1; 32]),
        notary: NotaryPoint::from_bytes([5; 65]),
        configuration: "{}".to_owned(),
        source: EvidenceSource::Machine,
    };
    let plain = Vouch { release_key: None, ..vouch.clone() };
    let inside = [
        ToMachine::Start { strength: Strength::Strict.argument().to_owned() },
        ToMachine::Order(Box::new(SignerOrder::OfferRelease(public_key))),
        ToMachine::Vouch(Box::new(vouch)),
        ToMachine::Vouch(Box::new(plain)),
        ToMachine::Connected { client: 1 },
        ToMachine::Data { client: 1, bytes: b"request".to_vec() },
        ToMachine::Gone { client: 1 },
        ToMachine::KillSwitch,
    ];
    let provider = "sev_guest".to_owned();
    let raw = RawEvidence { provider, outblob: vec![3; 200], auxblob: Some(vec![4; 60]) };
    let refused = CollectError::Untrue { what: "another key".to_owned() };
    let outside = [
        FromMachine::Seen { status: "Name:\tworker\n".into(), limits: "Limit\n".into() },
        FromMachine::Report(Box::new(SignerReport::Serving)),
        FromMachine::Vouched(Box::new(AttesterReport::Collected(raw))),
        FromMachine::Vouched(Box::new(AttesterReport::Refused(refused))),
        FromMachine::Requested { request: Digest::of(b"request") },
        FromMachine::Taken { client: 1 },
        FromMachine::Data { client: 1, bytes: b"answer".to_vec() },
        FromMachine::Gone { client: 1 },
        FromMachine::Ended { status: "exit status: zero".into() },
        FromMachine::Failed { step: "mount".into(), errno: 1 },
    ];
    let [inside, outside] = [
        inside.iter().map(frame).collect::<Vec<_>>(),
        outside.iter().map(frame).collect::<Vec<_>>(),
    ];
    let streams = |kind: u8, frames: &[Vec<u8>]| {
        let all = frames.concat();
        let alone = frames.iter().map(|frame| [&[kind, 255], frame.as_slice()].concat());
        alone.chain([[&[kind, 6], all.as_slice()].concat()]).collect::<Vec<_>>()
    };
    let firmware = [&[2], OVMF].concat();
    [streams(0, &outside), streams(1, &inside), vec![firmware]].concat()
}

const OVMF: &[u8] = include_bytes!("../../../runtime/machine/tests/vectors/ovmf_AmdSev_suffix.bin");
