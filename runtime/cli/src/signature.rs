//! What a signature file proves, and what it does not. Decisions only; `commands/verify.rs` reads.
//!
//! Two steps: [`Intact::open`] checks the signature itself, [`judge`] asks who stands behind the
//! key and when it signed. A key that nobody vouches for is never [`Verdict::Trusted`].

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use evanesce_ledger::{NotaryKey, NotaryKeyId, Receipt, Timestamp};
use evanesce_protocol::agent::ED25519;
use evanesce_protocol::commitment::request_of_message;
use evanesce_protocol::sshsig::{Envelope, HashAlgorithm, ParseSshsigError, SignedData};
use evanesce_protocol::{Digest, PublicKey};
use serde::Serialize;
use sha2::digest::consts::U64;
use sha2::digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update};
use ssh_encoding::{Decode as _, Encode as _};
use ssh_key::Certificate;
use ssh_key::certificate::CertType;
use ssh_key::public::KeyData;

use crate::errors::Coded;
use crate::trust::ssh_key_of;

/// The three answers of a verifying command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Intact, and somebody who is trusted vouches for the signer.
    Trusted,
    /// Not what was signed, or not by a key that was good at the time.
    Invalid,
    /// Intact, but nobody who is trusted vouches for the signer.
    SignerUnknown,
}

/// A signature that holds over its file. Says nothing of who signed.
#[derive(Debug)]
pub struct Intact {
    /// The key that signed.
    pub public_key: PublicKey,
    /// The certificate it was presented in, which nobody has checked yet.
    pub certificate: Option<Box<Certificate>>,
    /// How the ledger names what was signed.
    pub request: Digest,
}

impl Intact {
    /// Checks `envelope`'s signature over a file with digest `message_digest`, made with the hash
    /// that the envelope names, in `namespace`.
    ///
    /// # Errors
    ///
    /// [`Flaw`] where it does not hold.
    pub fn open(envelope: &Envelope, message_digest: &[u8], namespace: &str) -> Result<Self, Flaw> {
        if envelope.namespace != namespace {
            return Err(Flaw::Namespace {
                expected: namespace.to_owned(),
                found: envelope.namespace.clone(),
            });
        }
        let (public_key, certificate) = read_key(&envelope.public_key)?;
        let message = SignedData { namespace, hash: envelope.hash, message_digest }.to_bytes();
        let signature = read_signature(&envelope.signature)?;
        VerifyingKey::from_bytes(public_key.as_bytes())
            .map_err(|_| Flaw::Key)?
            .verify_strict(&message, &signature)
            .map_err(|_| Flaw::Signature)?;
        Ok(Self { public_key, certificate, request: request_of_message(&message) })
    }
}

/// Makes the envelope around a signature over `message_digest` (SHA-512) by `key`, a key blob.
pub fn seal(key: &[u8], namespace: &str, signature: &[u8; 64]) -> Envelope {
    let mut blob = Vec::new();
    for field in [ED25519.as_bytes(), signature] {
        field.encode(&mut blob).expect("a Vec takes any field below 4 GiB");
    }
    Envelope {
        public_key: key.to_vec(),
        namespace: namespace.to_owned(),
        hash: HashAlgorithm::Sha512,
        signature: blob,
    }
}

/// A SHA-512 digest that was made elsewhere, in the place of the hasher that made it: Ed25519ph as
/// the library has it wants to finish the hash itself, and does nothing else with it.
#[derive(Clone)]
pub struct Prehashed([u8; 64]);

impl Prehashed {
    /// Takes the digest.
    pub const fn new(digest: [u8; 64]) -> Self {
        Self(digest)
    }

    /// Checks an Ed25519ph signature (RFC 8032, section 5.1) with at most 255 bytes of context.
    ///
    /// # Errors
    ///
    /// [`Flaw`] where it does not hold.
    pub fn verify(self, key: &PublicKey, context: &[u8], signature: &[u8; 64]) -> Result<(), Flaw> {
        VerifyingKey::from_bytes(key.as_bytes())
            .map_err(|_| Flaw::Key)?
            .verify_prehashed_strict(self, Some(context), &Signature::from_bytes(signature))
            .map_err(|_| Flaw::Signature)
    }
}

impl FixedOutput for Prehashed {
    fn finalize_into(self, out: &mut Output<Self>) {
        out.copy_from_slice(&self.0);
    }
}

impl OutputSizeUser for Prehashed {
    type OutputSize = U64;
}

impl HashMarker for Prehashed {}

impl Update for Prehashed {
    fn update(&mut self, _more: &[u8]) {
        unreachable!("nothing is added to a finished digest");
    }
}

impl Default for Prehashed {
    fn default() -> Self {
        unreachable!("a finished digest does not start empty");
    }
}

impl fmt::Debug for Prehashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha512:{}", hex::encode(self.0))
    }
}

/// Why a signature does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The signature file is damaged, or something else.
    #[error("the signature file is not an SSH signature")]
    Envelope(#[from] ParseSshsigError),
    /// Made for another purpose.
    #[error("the signature is for namespace {found:?}, and {expected:?} was asked for")]
    Namespace {
        /// What was asked for.
        expected: String,
        /// What the signature says.
        found: String,
    },
    /// An algorithm other than Ed25519.
    #[error("the signature is by a key of type {found:?}, and only {ED25519} is checked here")]
    Algorithm {
        /// The type of the key.
        found: String,
    },
    /// The key in the signature file is damaged.
    #[error("the public key in the signature file is malformed")]
    Key,
    /// The signature does not fit file and key.
    #[error("the signature does not fit this file and this key")]
    Signature,
}

impl Coded for Flaw {
    fn code(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "signature.envelope",
            Self::Namespace { .. } => "signature.namespace",
            Self::Algorithm { .. } => "signature.algorithm",
            Self::Key => "signature.key",
            Self::Signature => "signature.mismatch",
        }
    }
}

/// A notary whose certificates and receipts are believed, and why.
#[derive(Clone, Debug)]
pub struct TrustedNotary {
    /// Its key.
    pub key: NotaryKey,
    /// Who says so.
    pub source: TrustSource,
}

/// Why a notary is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustSource {
    /// It is, or was, this installation's.
    Installation,
    /// It was named with `--notary`.
    Named,
    /// Evidence that was accepted binds it.
    Attested,
}

/// What this installation's ledger says of a key and a request.
#[derive(Debug, Default)]
pub struct LedgerWord {
    /// When the request was recorded as signed, and in which row.
    pub signed: Option<(Timestamp, u64)>,
    /// The end of the key, by the notary's word.
    pub receipt: Option<Box<Receipt>>,
    /// Why the ledger could not be asked, or says less than it might.
    pub silence: Option<String>,
}

/// When a signature was made, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "source", content = "at")]
pub enum SignedAt {
    /// The caller says so (`--at`).
    Given(Timestamp),
    /// The ledger says so.
    Ledger(Timestamp),
    /// Nobody says so; the certificate is judged as of now.
    Now(Timestamp),
}

impl SignedAt {
    fn time(self) -> Timestamp {
        match self {
            Self::Given(time) | Self::Ledger(time) | Self::Now(time) => time,
        }
    }
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// Why, in one clause.
    pub reason: String,
    /// The notary that vouches for the key.
    pub notary: Option<NotaryKeyId>,
    /// When the signature was made.
    pub signed_at: Option<SignedAt>,
    /// What was checked and held.
    pub checked: Vec<String>,
    /// What was not checked, and why.
    pub not_checked: Vec<String>,
}

impl Judgement {
    /// What is wrong with the signature itself decides alone.
    pub fn of_flaw(flaw: &Flaw) -> Self {
        Self {
            verdict: Verdict::Invalid,
            reason: flaw.to_string(),
            notary: None,
            signed_at: None,
            checked: Vec::new(),
            not_checked: vec!["who signed, and when: the signature does not hold".into()],
        }
    }
}

/// Decides what an intact signature is worth.
///
/// A certificate counts where a trusted notary issued it and it was valid when the key signed. A
/// plain key counts only where a receipt, signed by this installation's notary, lists this very
/// request.
pub fn judge(
    intact: &Intact,
    notaries: &[TrustedNotary],
    ledger: &LedgerWord,
    given: Option<Timestamp>,
    now: Timestamp,
) -> Judgement {
    let judge = Judge::new(ledger);
    if let Some(contradiction) = judge.contradiction() {
        return judge.conclude(Verdict::Invalid, contradiction);
    }
    match &intact.certificate {
        Some(certificate) => judge.certificate(certificate, notaries, given, now),
        None => judge.plain_key(),
    }
}

struct Judge<'a> {
    ledger: &'a LedgerWord,
    notary: Option<NotaryKeyId>,
    signed_at: Option<SignedAt>,
    checked: Vec<String>,
    not_checked: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(ledger: &'a LedgerWord) -> Self {
        let mut checked = vec!["the signature fits the file, the namespace and the key".to_owned()];
        if let Some((at, seq)) = ledger.signed {
            checked.push(format!("row {seq} of the ledger has this signature, recorded at {at}"));
        }
        Self {
            ledger,
            notary: None,
            signed_at: ledger.signed.map(|(at, _)| SignedAt::Ledger(at)),
            checked,
            not_checked: Vec::new(),
        }
    }

    /// A receipt that lists all that the key signed, and not this.
    fn contradiction(&self) -> Option<String> {
        let receipt = self.ledger.receipt.as_ref()?;
        let missing = self.ledger.signed.is_none() && receipt.signatures.complete;
        missing.then(|| {
            format!(
                "the receipt of {} lists all {} signatures of this key, and this is none of them",
                receipt.workload, receipt.signatures.count
            )
        })
    }

    fn plain_key(self) -> Judgement {
        match (&self.ledger.receipt, self.ledger.signed) {
            (Some(receipt), Some(_)) => {
                let reason = format!(
                    "a receipt of this installation's notary lists this signature of workload {}",
                    receipt.workload
                );
                self.conclude(Verdict::Trusted, reason)
            }
            _ => self.conclude(
                Verdict::SignerUnknown,
                "the key has no certificate, and no receipt here lists this signature".into(),
            ),
        }
    }

    fn certificate(
        mut self,
        certificate: &Certificate,
        notaries: &[TrustedNotary],
        given: Option<Timestamp>,
        now: Timestamp,
    ) -> Judgement {
        let issuer =
            notaries.iter().find(|notary| ssh_key_of(&notary.key) == *certificate.signature_key());
        let Some(issuer) = issuer else {
            self.not_checked.push("the certificate: its issuer is not trusted here".into());
            return self.conclude(
                Verdict::SignerUnknown,
                "the certificate is by an issuer that is not trusted here".into(),
            );
        };
        if let Err(flaw) = check_issue(certificate) {
            return self.conclude(Verdict::Invalid, flaw.to_owned());
        }
        self.notary = Some(issuer.key.id());
        self.checked.push(match issuer.source {
            TrustSource::Installation => "this installation's notary issued the certificate".into(),
            TrustSource::Named => "the notary named with --notary issued the certificate".into(),
            TrustSource::Attested => "the notary in the evidence issued the certificate".into(),
        });
        let signed_at = match (given, self.signed_at) {
            (Some(at), _) => SignedAt::Given(at),
            (None, Some(at)) => at,
            (None, None) => SignedAt::Now(now),
        };
        self.signed_at = Some(signed_at);
        let valid = is_valid_at(certificate, signed_at.time());
        match (valid, signed_at) {
            (true, SignedAt::Now(_)) => {
                self.checked.push("the certificate is valid now".into());
                self.not_checked.push("when the file was signed: no ledger entry, no --at".into());
            }
            (true, SignedAt::Given(at) | SignedAt::Ledger(at)) => {
                self.checked.push(format!("the certificate was valid at {at}"));
            }
            (false, SignedAt::Now(_)) => {
                self.not_checked.push("when the file was signed: no ledger entry, no --at".into());
                return self.conclude(
                    Verdict::SignerUnknown,
                    "the certificate is not valid now, and when the file was signed is not known"
                        .into(),
                );
            }
            (false, SignedAt::Given(at) | SignedAt::Ledger(at)) => {
                return self
                    .conclude(Verdict::Invalid, format!("the certificate was not valid at {at}"));
            }
        }
        let workload = certificate.key_id();
        self.conclude(
            Verdict::Trusted,
            format!("a trusted notary certified the key of workload {workload}"),
        )
    }

    fn conclude(mut self, verdict: Verdict, reason: String) -> Judgement {
        if self.ledger.signed.is_some() || self.ledger.receipt.is_some() {
            self.not_checked.push("completeness of the ledger: no checkpoint was given".into());
        }
        if self.ledger.receipt.is_none() {
            let why = self.ledger.silence.as_deref().unwrap_or("no receipt here is of it");
            self.not_checked.push(format!("what became of the key: {why}"));
        }
        Judgement {
            verdict,
            reason,
            notary: self.notary,
            signed_at: self.signed_at,
            checked: self.checked,
            not_checked: self.not_checked,
        }
    }
}

/// Reads a key blob: an Ed25519 key, plain or in an OpenSSH certificate.
fn read_key(blob: &[u8]) -> Result<(PublicKey, Option<Box<Certificate>>), Flaw> {
    let algorithm = String::decode(&mut &*blob).map_err(|_| Flaw::Key)?;
    let (key, certificate) = match algorithm.as_str() {
        ED25519 => {
            let mut rest = blob;
            let key = KeyData::decode(&mut rest).map_err(|_| Flaw::Key)?;
            match rest.is_empty() {
                true => (key, None),
                false => return Err(Flaw::Key),
            }
        }
        CERTIFICATE => {
            let certificate = Certificate::from_bytes(blob).map_err(|_| Flaw::Key)?;
            (certificate.public_key().clone(), Some(Box::new(certificate)))
        }
        _ => return Err(Flaw::Algorithm { found: algorithm }),
    };
    let key = key.ed25519().ok_or(Flaw::Key)?;
    Ok((PublicKey::from_bytes(key.0), certificate))
}

/// Reads a signature as SSH encodes it.
fn read_signature(blob: &[u8]) -> Result<Signature, Flaw> {
    let mut rest = blob;
    let algorithm = String::decode(&mut rest).map_err(|_| Flaw::Signature)?;
    let bytes = Vec::<u8>::decode(&mut rest).map_err(|_| Flaw::Signature)?;
    if algorithm != ED25519 || !rest.is_empty() {
        return Err(Flaw::Signature);
    }
    Signature::from_slice(&bytes).map_err(|_| Flaw::Signature)
}

/// Checks what a certificate says beside its validity: its own signature, its type, and that it
/// asks for nothing that is not understood here (OpenSSH, `PROTOCOL.certkeys`).
fn check_issue(certificate: &Certificate) -> Result<(), &'static str> {
    let issuer = certificate.signature_key().fingerprint(ssh_key::HashAlg::Sha256);
    // The issuer is compared by the caller; at its first second a certificate is always valid.
    if certificate.validate_at(certificate.valid_after(), [&issuer]).is_err() {
        return Err("the certificate's own signature does not hold");
    }
    if certificate.cert_type() != CertType::User {
        return Err("the certificate is one of a host, not of a user");
    }
    if !certificate.critical_options().is_empty() {
        return Err("the certificate has critical options, and none are understood here");
    }
    Ok(())
}

/// OpenSSH: `valid after <= time < valid before`.
fn is_valid_at(certificate: &Certificate, time: Timestamp) -> bool {
    let seconds = time.unix_ms() / 1000;
    certificate.valid_after() <= seconds && seconds < certificate.valid_before()
}

/// A second of a certificate as a timestamp.
pub fn timestamp_of_seconds(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(seconds.saturating_mul(1000))
}

/// The SSH name of a certificate over an Ed25519 key.
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com";

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use sha2::{Digest as _, Sha512};

    use super::*;
    use crate::trust::parse_notary;

    const MESSAGE: &[u8] = b"evanesce\n";
    /// 2026-11-22T00:05:00Z, in the middle of the certificate's ten minutes.
    const DURING: Timestamp = Timestamp::from_unix_ms(1_795_305_900_000);
    const AFTER: Timestamp = Timestamp::from_unix_ms(1_795_306_200_000);
    const NOTARY: &str = include_str!("../tests/cases/files/notary.pub");
    const STRANGER: &str = include_str!("../tests/cases/files/other-notary.pub");

    fn certified() -> Intact {
        let armoured = include_bytes!("../tests/cases/files/message.sig");
        let envelope = Envelope::from_armoured(armoured).unwrap();
        Intact::open(&envelope, &Sha512::digest(MESSAGE), "file").unwrap()
    }

    fn trusting(line: &str) -> Vec<TrustedNotary> {
        let key = parse_notary(line).unwrap();
        vec![TrustedNotary { key, source: TrustSource::Installation }]
    }

    fn signed_at(at: Timestamp) -> LedgerWord {
        LedgerWord { signed: Some((at, 5)), ..LedgerWord::default() }
    }

    fn verdict(intact: &Intact, notary: &str, ledger: &LedgerWord) -> Verdict {
        judge(intact, &trusting(notary), ledger, None, AFTER).verdict
    }

    #[test]
    fn a_certificate_counts_at_the_time_the_ledger_gives_and_not_now() {
        assert_eq!(verdict(&certified(), NOTARY, &signed_at(DURING)), Verdict::Trusted);
        assert_eq!(verdict(&certified(), NOTARY, &signed_at(AFTER)), Verdict::Invalid);
    }

    /// An expired certificate tells nothing of a signature of unknown age: the key may have been a
    /// file that somebody found later.
    #[test]
    fn an_expired_certificate_without_a_time_is_not_trusted() {
        let judgement = judge(&certified(), &trusting(NOTARY), &LedgerWord::default(), None, AFTER);

        assert_eq!(judgement.verdict, Verdict::SignerUnknown);
        assert!(judgement.not_checked.iter().any(|line| line.starts_with("when the file was")));
    }

    #[test]
    fn a_certificate_by_a_stranger_is_not_trusted_whatever_the_ledger_says() {
        assert_eq!(verdict(&certified(), STRANGER, &signed_at(DURING)), Verdict::SignerUnknown);
    }

    #[test]
    fn a_changed_certificate_is_invalid() {
        let mut intact = certified();
        let mut bytes = intact.certificate.unwrap().to_bytes().unwrap();
        let at = bytes.windows(10).position(|window| window == b"workload-1").unwrap();
        bytes[at + 9] = b'2';
        intact.certificate = Some(Box::new(Certificate::from_bytes(&bytes).unwrap()));

        let judgement = judge(&intact, &trusting(NOTARY), &signed_at(DURING), None, AFTER);

        assert_eq!(judgement.verdict, Verdict::Invalid);
        assert_eq!(judgement.reason, "the certificate's own signature does not hold");
    }

    #[test]
    fn a_plain_key_without_a_receipt_is_a_stranger_even_where_a_row_names_it() {
        let intact = Intact { certificate: None, ..certified() };

        assert_eq!(verdict(&intact, NOTARY, &signed_at(DURING)), Verdict::SignerUnknown);
    }

    #[test]
    fn a_signature_in_another_namespace_or_over_another_file_is_refused_by_name() {
        let armoured = include_bytes!("../tests/cases/files/message.sig");
        let envelope = Envelope::from_armoured(armoured).unwrap();
        let digest = Sha512::digest(MESSAGE);
        let code = |digest: &[u8], namespace| {
            Intact::open(&envelope, digest, namespace).unwrap_err().code()
        };

        assert_eq!(code(&digest, "git"), "signature.namespace");
        assert_eq!(code(&Sha512::digest(b"other"), "file"), "signature.mismatch");
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_that_signed() {
        let key = SigningKey::from_bytes(&[9; 32]);
        let mut blob = Vec::new();
        for field in [ED25519.as_bytes(), key.verifying_key().as_bytes()] {
            field.encode(&mut blob).unwrap();
        }
        let digest = Sha512::digest(MESSAGE);
        let hash = HashAlgorithm::Sha512;
        let data = SignedData { namespace: "file", hash, message_digest: &digest }.to_bytes();
        let envelope = seal(&blob, "file", &key.sign(&data).to_bytes());

        let intact = Intact::open(&envelope, &digest, "file").unwrap();

        assert_eq!(intact.public_key.as_bytes(), key.verifying_key().as_bytes());
        assert_eq!(intact.request, request_of_message(&data));
    }

    /// RFC 8032, section 7.3.
    #[test]
    fn the_digest_signature_of_the_rfc_verifies_and_with_a_context_does_not() {
        let key = "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf";
        let key = PublicKey::from_bytes(hex::decode(key).unwrap().try_into().unwrap());
        let signature: [u8; 64] = hex::decode(
            "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41\
             31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406",
        )
        .unwrap()
        .try_into()
        .unwrap();
        let digest = Prehashed::new(Sha512::digest(b"abc").into());

        digest.clone().verify(&key, b"", &signature).unwrap();
        assert_eq!(digest.verify(&key, b"x", &signature).unwrap_err().code(), "signature.mismatch");
    }
}
