//! Evidence as the command line names it: an envelope, or what the vendors' tools write.

use std::path::{Path, PathBuf};

use evanesce_appraisal::{Evidence, Expected, Roots, SnpEndorsements, wanted};
use evanesce_evidence::{ENVELOPE_BYTES_MAX, Endorsements, EnvelopeError, EvidenceEnvelope, Kind};
use evanesce_protocol::PublicKey;
use evanesce_protocol::evidence::{Binding, Nonce};
use time::OffsetDateTime;

use crate::attestation::Bundle;
use crate::clock;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::files;
use evanesce_ledger::Timestamp;

/// The files that hold evidence and what to check it by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InputPaths<'a> {
    pub(crate) evidence: Option<&'a Path>,
    pub(crate) snp_report: Option<&'a Path>,
    pub(crate) tdx_quote: Option<&'a Path>,
    pub(crate) vek: Option<&'a Path>,
    pub(crate) crl: Option<&'a Path>,
    pub(crate) collateral: Option<&'a Path>,
}

/// Evidence that was read, and nothing more.
#[derive(Debug)]
pub struct Input {
    pub(crate) name: PathBuf,
    body: Body,
    vek: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
    collateral: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Body {
    Envelope(Box<EvidenceEnvelope>),
    Report(Vec<u8>),
    Quote(Vec<u8>),
}

impl Input {
    /// Reads the files. What is named beside an envelope stands in the place of what is in it.
    pub(crate) fn read(paths: InputPaths<'_>) -> Result<Self, CommandError> {
        let small = |path: Option<&Path>| {
            path.map(|path| files::read_small(path, FILE_BYTES_MAX)).transpose()
        };
        let (name, body) = match (paths.evidence, paths.snp_report, paths.tdx_quote) {
            (Some(path), _, _) => (path, Body::Envelope(Box::new(read_bundle(path)?.evidence))),
            (None, Some(path), _) => (path, Body::Report(files::read_small(path, FILE_BYTES_MAX)?)),
            (None, None, Some(path)) => {
                (path, Body::Quote(files::read_small(path, FILE_BYTES_MAX)?))
            }
            (None, None, None) => unreachable!("the command line asks for one of the three"),
        };
        let (vek, crl, collateral) =
            (small(paths.vek)?, small(paths.crl)?, small(paths.collateral)?);
        Ok(Self { name: name.to_owned(), body, vek, crl, collateral })
    }

    /// Takes an envelope that was found elsewhere than in a file of its own.
    pub(crate) fn of_envelope(name: PathBuf, envelope: EvidenceEnvelope) -> Self {
        let body = Body::Envelope(Box::new(envelope));
        Self { name, body, vek: None, crl: None, collateral: None }
    }

    /// Takes what `attest collateral fetch` kept, where nothing else is at hand.
    pub(crate) fn complete(&mut self, context: &Context<'_>) -> Result<(), CommandError> {
        let is_complete = match self.evidence() {
            Evidence::Snp { endorsements, .. } => {
                endorsements.vek.is_some() && endorsements.crl.is_some()
            }
            Evidence::Tdx { collateral, .. } => collateral.is_some(),
            _ => true,
        };
        if is_complete {
            return Ok(());
        }
        let (has_vek, has_crl) = match self.evidence() {
            Evidence::Snp { endorsements: found, .. } => (found.vek.is_some(), found.crl.is_some()),
            _ => (false, false),
        };
        let kept = kept(self.evidence(), context)?;
        let snp = kept.snp.unwrap_or_default();
        if !has_vek {
            self.vek = snp.vek;
        }
        if !has_crl {
            self.crl = snp.crl;
        }
        self.collateral =
            self.collateral.take().or(kept.tdx.map(|tdx| tdx.collateral.into_bytes()));
        Ok(())
    }

    /// The evidence, for an appraisal.
    pub(crate) fn evidence(&self) -> Evidence<'_> {
        match &self.body {
            Body::Envelope(envelope) => match envelope.kind() {
                Kind::Snp => Evidence::Snp {
                    report: &envelope.raw.outblob,
                    endorsements: SnpEndorsements {
                        vek: self.vek.as_deref().or_else(|| envelope.vek()),
                        crl: self.crl.as_deref().or_else(|| envelope.crl()),
                    },
                },
                Kind::Tdx => Evidence::Tdx {
                    quote: &envelope.raw.outblob,
                    collateral: self.collateral.as_deref().or_else(|| envelope.collateral()),
                },
                Kind::InsecureSoftware => {
                    Evidence::InsecureSoftware { statement: &envelope.raw.outblob }
                }
            },
            Body::Report(report) => Evidence::Snp {
                report,
                endorsements: SnpEndorsements {
                    vek: self.vek.as_deref(),
                    crl: self.crl.as_deref(),
                },
            },
            Body::Quote(quote) => Evidence::Tdx { quote, collateral: self.collateral.as_deref() },
        }
    }

    /// The envelope, where there is one.
    pub(crate) fn envelope(&self) -> Option<&EvidenceEnvelope> {
        match &self.body {
            Body::Envelope(envelope) => Some(envelope),
            Body::Report(_) | Body::Quote(_) => None,
        }
    }

    /// What the evidence says it binds.
    pub(crate) fn binding(&self) -> Option<&Binding> {
        self.envelope().map(|envelope| &envelope.binding)
    }

    /// What REPORT_DATA has to be, by what the caller knows.
    pub(crate) fn expected<'a>(
        &'a self,
        nonce: Option<&'a Nonce>,
        public_key: Option<&'a PublicKey>,
        report_data: Option<&'a [u8; 64]>,
    ) -> Expected<'a> {
        match (self.binding(), report_data) {
            (Some(binding), _) => Expected::Binding { binding, nonce, public_key },
            (None, Some(report_data)) => Expected::ReportData(report_data),
            (None, None) => Expected::Nothing,
        }
    }
}

/// Adds what `attest collateral fetch` kept, where the evidence lacks it.
pub(crate) fn add_kept_endorsements(
    envelope: &mut EvidenceEnvelope,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let input = Input::of_envelope(PathBuf::new(), envelope.clone());
    let kept = kept(input.evidence(), context)?;
    let own = &mut envelope.endorsements;
    match (&mut own.snp, kept.snp) {
        (Some(own), Some(kept)) => {
            own.vek = own.vek.take().or(kept.vek);
            own.crl = own.crl.take().or(kept.crl);
        }
        (own, kept) => *own = own.take().or(kept),
    }
    own.tdx = own.tdx.take().or(kept.tdx);
    Ok(())
}

/// What is kept for `evidence`; nothing where it does not say what it needs.
fn kept(evidence: Evidence<'_>, context: &Context<'_>) -> Result<Endorsements, CommandError> {
    match wanted(evidence, None) {
        Ok(request) => Ok(context.collateral()?.find(&request)?),
        Err(_) => Ok(Endorsements::default()),
    }
}

/// Reads evidence: an envelope alone, or a bundle of it and a signed result.
pub(crate) fn read_bundle(path: &Path) -> Result<Bundle, CommandError> {
    /// What tells the two apart.
    #[derive(serde::Deserialize)]
    struct Peek {
        evidence: Option<serde::de::IgnoredAny>,
    }
    let bytes = files::read_small(path, ENVELOPE_BYTES_MAX as u64)?;
    let failed = |source| NotEvidenceError { path: path.to_owned(), source };
    let is_bundle =
        serde_json::from_slice::<Peek>(&bytes).is_ok_and(|peek| peek.evidence.is_some());
    Ok(match is_bundle {
        true => {
            serde_json::from_slice(&bytes).map_err(|error| failed(EnvelopeError::Parse(error)))?
        }
        false => {
            let evidence = EvidenceEnvelope::from_json(&bytes).map_err(failed)?;
            Bundle { evidence, result: None }
        }
    })
}

/// Roots for tests, where the build has them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RootArgs {
    /// Trust the root certificates in FILE instead of the vendors': for tests, never in production
    #[cfg(feature = "danger-replaced-roots")]
    #[arg(long, value_name = "FILE")]
    unsafe_trust_root: Option<PathBuf>,
}

impl RootArgs {
    /// The vendors' roots, or those for tests.
    #[cfg(feature = "danger-replaced-roots")]
    pub(crate) fn roots(&self, context: &Context<'_>) -> Result<Roots, CommandError> {
        let Some(path) = &self.unsafe_trust_root else { return Ok(Roots::vendors()) };
        context.ui().say("DANGER: this build takes replaced roots; what it trusts proves nothing");
        let bytes = files::read_small(path, FILE_BYTES_MAX)?;
        let roots = str::from_utf8(&bytes).ok().and_then(Roots::danger_from_pem);
        Ok(roots.ok_or_else(|| NotRootsError { path: path.clone() })?)
    }

    /// The vendors' roots.
    #[cfg(not(feature = "danger-replaced-roots"))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as the other build has it")]
    pub(crate) fn roots(&self, _: &Context<'_>) -> Result<Roots, CommandError> {
        Ok(Roots::vendors())
    }
}

/// The time to judge by: what was named, else now.
pub(crate) fn moment(at: Option<Timestamp>) -> OffsetDateTime {
    let ms = at.unwrap_or_else(clock::now).unix_ms();
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .expect("a timestamp is between the years 1970 and 9999")
}

/// Reads exactly `BYTES` bytes in hexadecimal digits, for the command line.
pub(crate) fn parse_hex<const BYTES: usize>(text: &str) -> Result<[u8; BYTES], String> {
    let mut bytes = [0; BYTES];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| format!("write {} hexadecimal digits", 2 * BYTES))?;
    Ok(bytes)
}

/// Reads a nonce, in digits of either case.
pub(crate) fn parse_nonce(text: &str) -> Result<Nonce, String> {
    parse_hex(text).map(Nonce::from_bytes)
}

/// A file that holds no evidence envelope.
#[derive(Debug, thiserror::Error)]
#[error("{} holds no evidence that can be read", path.display())]
struct NotEvidenceError {
    path: PathBuf,
    #[source]
    source: EnvelopeError,
}

impl Coded for NotEvidenceError {
    fn code(&self) -> &'static str {
        self.source.code()
    }
}

/// A file that holds no roots.
#[cfg(feature = "danger-replaced-roots")]
#[derive(Debug, thiserror::Error)]
#[error("{} holds neither ARK, ASK and ASVK nor one root certificate in PEM", path.display())]
struct NotRootsError {
    path: PathBuf,
}

#[cfg(feature = "danger-replaced-roots")]
impl Coded for NotRootsError {
    fn code(&self) -> &'static str {
        "attest.roots"
    }
}

/// Bytes in a report, a quote, a certificate, a CRL or collateral. The appraisal has closer limits.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
