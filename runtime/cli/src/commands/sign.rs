//! `sign`: sign files with a key that exists for this one call, or have a server sign them.

pub mod remote;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use evanesce_launcher::{EndReason, Ended, NotarySession, Plan, Recorded, SignedFile, Workload};
use evanesce_ledger::Receipt;
use evanesce_ledger::receipt::KeyFate;
use evanesce_ledger::record::{ArtifactRecord, Sha512Digest as Sha512Record, SshSignature};
use evanesce_protocol::grant::{Grant, Grants, Namespace};
use evanesce_protocol::limits::CONTEXT_BYTES_MAX;
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use evanesce_protocol::{Digest, PublicKey};
use serde::Serialize;
use ssh_key::Certificate;

use crate::agent_client::AgentClient;
use crate::commands::attest::input::add_kept_endorsements;
use crate::commands::plan::KeyArgs;
use crate::commands::run::UnprovenError;
use crate::configuration::Layer;
use crate::context::Context;
use crate::errors::{Coded, CommandError, ErrorRecord};
use crate::exit::Exit;
use crate::files::{self, Digests};
use crate::local_log::LocalLog;
use crate::new_file::{self, Existing};
use crate::receipt_text;
use crate::signature::{self, Flaw, Intact, Prehashed};
use crate::ui::{self, Report};

/// Sign files with a key that exists for this one call
///
/// Makes a key inside a worker, signs every FILE with it, destroys the key and prints its receipt.
/// The signature of FILE goes to FILE.sig, in the format of `ssh-keygen -Y sign`, with the
/// certificate of this installation's notary inside; that of `-` goes to standard output. The
/// notary's record of it, with the proof that it is in the local log, goes to FILE.sigstore.json, a
/// Sigstore bundle.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").args(["files", "digest"]).required(true),
    after_help = "\
Examples:
  evanesce sign release.tar       writes release.tar.sig and release.tar.sigstore.json
  tar c src | evanesce sign - > src.tar.sig      signs what is piped in
  evanesce sign --digest sha512:$(sha512sum release.tar | cut -d' ' -f1)
  evanesce sign --remote https://signer.example:8443/v1/keys/release --policy policy.toml \\
    --client-cert ci.pem --client-key ci.key --ca ca.pem release.tar

The notary's line for allowed_signers, which lets `ssh-keygen -Y verify` check these signatures, is
printed by `evanesce notary show`."
)]
pub struct SignArgs {
    #[command(flatten)]
    key: KeyArgs,

    /// The files, or - for standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Sign for NAMESPACE, which `verify` and ssh-keygen have to name as well
    #[arg(long, value_name = "NAMESPACE", default_value = "file", conflicts_with = "digest")]
    namespace: Namespace,

    /// Sign a SHA-512 digest, sha512:HEX, with Ed25519ph (RFC 8032)
    ///
    /// Prints a JSON document with the signature, the public key and the certificate. ssh-keygen
    /// and OpenSSL do not check such signatures; RFC 8032 libraries do.
    #[arg(long, value_name = "DIGEST", value_parser = parse_sha512)]
    digest: Option<Sha512Digest>,

    /// Bind the signature of --digest to TEXT, at most 255 bytes
    #[arg(
        long,
        value_name = "TEXT",
        requires = "digest",
        default_value = "",
        hide_default_value = true
    )]
    context: String,

    /// Write the signature to FILE (one input only)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write no Sigstore bundle
    #[arg(long)]
    no_bundle: bool,

    #[command(flatten)]
    remote: remote::RemoteArgs,

    /// Replace signature files that exist
    #[arg(long)]
    force: bool,
}

/// Signs.
///
/// # Errors
///
/// Where an input cannot be read, there is no key, or a signature cannot be written. No signature
/// is written unless all were made and checked.
pub fn run(args: &SignArgs, context: &Context<'_>) -> Result<SignReport, CommandError> {
    let existing = Existing::of_force(args.force);
    let jobs = args.jobs()?;
    for target in jobs.iter().flat_map(Job::targets) {
        new_file::check(target, existing)?;
    }
    let evidence_files = args.evidence_files();
    for path in &evidence_files {
        new_file::check(path, existing)?;
    }
    args.key.source.warn(context);
    let launcher = context.launcher()?;
    let mut workload = args.key.start(context, &launcher, args.plan(context))?;
    let signed = sign_all(&mut workload, &jobs);
    if let Ok(signed) = &signed {
        for file in signed.iter().filter_map(|signed| signed.file.clone()) {
            workload.record_signature(file);
        }
    }
    let ended = workload.end_keeping_notary(match signed {
        Ok(_) => EndReason::CommandEnded,
        Err(_) => EndReason::Failed,
    });
    let (signed, (ended, mut notary)) = (signed?, ended?);
    let logged = log_records(context, &mut notary, &ended);
    notary.close()?;
    let mut report = SignReport::new(&ended);
    let mut records = ended.records.iter();
    for (job, signed) in jobs.iter().zip(signed) {
        if let Some(path) = &job.target {
            new_file::write(path, signed.text.as_bytes(), existing)?;
        }
        let record = signed.file.as_ref().and_then(|_| records.next());
        let bundle = match (&logged, record, &job.bundle) {
            (Ok(bundles), Some(record), Some(path)) => {
                let bundle = &bundles[&record.row];
                new_file::write(path, bundle.as_bytes(), existing)?;
                Some(path.clone())
            }
            _ => None,
        };
        report.outputs.push(SignedOutput {
            input: job.name.clone(),
            written: job.target.clone(),
            bundle,
            signature: job.target.is_none().then_some(signed.text),
        });
    }
    if let Some(evidence) = &ended.evidence {
        let mut evidence = evidence.clone();
        add_kept_endorsements(&mut evidence, context)?;
        for path in &evidence_files {
            new_file::write(path, format!("{}\n", evidence.to_json()).as_bytes(), existing)?;
        }
    }
    // The signatures are there all the same, and the next command that signs grows the log.
    if let Err(error) = logged {
        report.error.get_or_insert(error.to_record());
    }
    Ok(report)
}

/// Grows the local log by what was signed; returns the bundles of the records, by their rows.
fn log_records(
    context: &Context<'_>,
    notary: &mut NotarySession,
    ended: &Ended,
) -> Result<BTreeMap<u64, String>, CommandError> {
    let local = LocalLog::of(context)?;
    local.extend_with(notary)?;
    let mut log = local.open()?;
    let bundle = |recorded: &Recorded| -> Result<_, CommandError> {
        let bundle = local.bundle(&mut log, &recorded.envelope, recorded.row)?;
        Ok((recorded.row, bundle))
    };
    ended.records.iter().map(bundle).collect()
}

impl SignArgs {
    /// The settings that its flags name.
    pub fn layer(&self) -> Layer {
        self.key.limits.layer()
    }

    /// Whether a server is to sign.
    pub fn is_remote(&self) -> bool {
        self.remote.is_named()
    }

    fn plan(&self, context: &Context<'_>) -> Plan {
        let grant = match self.digest {
            Some(_) => Grant::Digest,
            None => Grant::Sshsig { namespace: Some(self.namespace.clone()) },
        };
        let grants = Grants::new(vec![grant]).expect("one grant stands alone");
        Plan { grants, command_name: Some("evanesce sign".into()), ..self.key.plan(context) }
    }

    /// Where the key's evidence goes: beside each file that is signed.
    fn evidence_files(&self) -> Vec<PathBuf> {
        let files = self.files.iter().filter(|path| !files::is_stdin(path));
        match self.key.attest {
            true => files.map(|path| evidence_path(path)).collect(),
            false => Vec::new(),
        }
    }

    /// Reads every input, before there is a key.
    fn jobs(&self) -> Result<Vec<Job>, CommandError> {
        if let Some(digest) = &self.digest {
            if self.context.len() > CONTEXT_BYTES_MAX {
                return Err(SignError::Context { found: self.context.len() }.into());
            }
            return Ok(vec![Job {
                name: format!("sha512:{}", hex::encode(digest.0)),
                work: Work::Digest { digest: digest.0, context: self.context.clone() },
                target: self.output.clone(),
                bundle: None,
            }]);
        }
        if self.output.is_some() && self.files.len() > 1 {
            return Err(SignError::OneOutput { files: self.files.len() }.into());
        }
        self.files.iter().map(|path| self.file_job(path)).collect()
    }

    /// A bundle goes beside the file, or beside `--output`; standard input has no name.
    fn bundle_path(&self, path: &Path) -> Option<PathBuf> {
        match (self.no_bundle, &self.output, files::is_stdin(path)) {
            (true, _, _) | (false, None, true) => None,
            (false, Some(output), _) => Some(bundle_path(output)),
            (false, None, false) => Some(bundle_path(path)),
        }
    }

    fn file_job(&self, path: &Path) -> Result<Job, CommandError> {
        let target = match (&self.output, files::is_stdin(path)) {
            (Some(output), _) => Some(output.clone()),
            (None, true) => None,
            (None, false) => Some(signature_path(path)),
        };
        Ok(Job {
            name: path.display().to_string(),
            work: Work::File {
                digests: files::digests(path)?,
                namespace: self.namespace.clone(),
                name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            },
            bundle: self.bundle_path(path),
            target,
        })
    }
}

/// `FILE.evidence.json`.
pub(crate) fn evidence_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".evidence.json");
    name.into()
}

/// `FILE.sig`.
pub(crate) fn signature_path(file: &Path) -> PathBuf {
    file.with_added_extension("sig")
}

/// `FILE.sigstore.json`.
pub(crate) fn bundle_path(file: &Path) -> PathBuf {
    file.with_added_extension("sigstore.json")
}

/// One signature to make, and where it goes: a file, or the report.
struct Job {
    name: String,
    work: Work,
    target: Option<PathBuf>,
    /// Where the bundle goes, if there is to be one.
    bundle: Option<PathBuf>,
}

impl Job {
    fn targets(&self) -> impl Iterator<Item = &Path> {
        self.target.iter().chain(&self.bundle).map(PathBuf::as_path)
    }
}

/// One signature that was made and checked.
struct Signed {
    text: String,
    /// What the notary is to record of it.
    file: Option<SignedFile>,
}

enum Work {
    File { digests: Digests, namespace: Namespace, name: String },
    Digest { digest: [u8; 64], context: String },
}

/// Makes the text of every signature, each checked before it counts.
fn sign_all(workload: &mut Workload<'_>, jobs: &[Job]) -> Result<Vec<Signed>, CommandError> {
    let certificate_line = workload.certificate_line().to_owned();
    let certificate = Certificate::from_openssh(&certificate_line)
        .and_then(|certificate| certificate.to_bytes())
        .map_err(SignError::Certificate)?;
    let public_key = *workload.public_key();
    let mut agent = AgentClient::connect(&workload.agent_socket())?;
    let mut all = Vec::new();
    for job in jobs {
        all.push(match &job.work {
            Work::File { digests, namespace, name } => {
                let (namespace, digest) = (namespace.as_str(), &digests.sha512);
                let hash = HashAlgorithm::Sha512;
                let data = SignedData { namespace, hash, message_digest: digest };
                let signature = agent.sign(&certificate, &data.to_bytes())?;
                let envelope = signature::seal(&certificate, namespace, &signature);
                let intact = Intact::open(&envelope, digest, namespace);
                let request = intact.map_err(SignError::Check)?.request;
                let file = job.bundle.is_some().then(|| SignedFile {
                    artifact: ArtifactRecord {
                        name: name.clone(),
                        sha256: Digest::from_bytes(digests.sha256),
                        sha512: Sha512Record::from_bytes(*digest),
                    },
                    signature: SshSignature {
                        namespace: namespace.to_owned(),
                        value: signature.to_vec(),
                    },
                    request,
                });
                Signed { text: envelope.to_armoured(), file }
            }
            Work::Digest { digest, context } => {
                let signature = agent.sign_digest(&certificate, context.as_bytes(), digest)?;
                Prehashed::new(*digest)
                    .verify(&public_key, context.as_bytes(), &signature)
                    .map_err(SignError::Check)?;
                let document = DigestSignature {
                    algorithm: "Ed25519ph",
                    digest: &job.name,
                    context,
                    signature: Base64::encode_string(&signature),
                    public_key,
                    certificate: certificate_line.trim_end(),
                };
                let text = serde_json::to_string_pretty(&document).expect("plain data") + "\n";
                Signed { text, file: None }
            }
        });
    }
    Ok(all)
}

/// What was signed, and what became of the key.
#[derive(Debug, Serialize)]
pub struct SignReport {
    outputs: Vec<SignedOutput>,
    error: Option<ErrorRecord>,
    receipt: Receipt,
    receipt_row: u64,
}

/// One signature.
#[derive(Debug, Serialize)]
struct SignedOutput {
    input: String,
    written: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

impl Report for SignReport {
    fn exit(&self) -> Exit {
        match self.error {
            Some(_) => Exit::Failure,
            None => Exit::Success,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut to_output = self.outputs.iter().filter_map(|output| output.signature.as_ref());
        match self.is_on_output() {
            true => to_output.try_for_each(|text| out.write_all(text.as_bytes())),
            false => self.summarize(out),
        }
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        if self.is_on_output() {
            self.summarize(err)?;
        }
        self.error.as_ref().map_or(Ok(()), |error| ui::write_error(error, err))
    }
}

impl SignReport {
    fn new(ended: &Ended) -> Self {
        let error = (ended.fate == KeyFate::Unproven).then(|| {
            let id = ended.receipt.workload.clone();
            CommandError::from(UnprovenError { id }).to_record()
        });
        let (receipt, receipt_row) = (ended.receipt.clone(), ended.row);
        Self { outputs: Vec::new(), error, receipt, receipt_row }
    }

    /// Whether standard output carries a signature.
    fn is_on_output(&self) -> bool {
        self.outputs.iter().any(|output| output.signature.is_some())
    }

    fn summarize(&self, out: &mut dyn Write) -> io::Result<()> {
        for output in &self.outputs {
            if let Some(path) = &output.written {
                writeln!(out, "signed    {} → {}", output.input, path.display())?;
            }
            if let Some(path) = &output.bundle {
                writeln!(out, "logged    {} → {}", output.input, path.display())?;
            }
        }
        receipt_text::write(&self.receipt, self.receipt_row, out)
    }
}

/// A signature over a digest, with all that is needed to check it.
#[derive(Serialize)]
struct DigestSignature<'a> {
    algorithm: &'static str,
    digest: &'a str,
    context: &'a str,
    signature: String,
    public_key: PublicKey,
    certificate: &'a str,
}

/// A SHA-512 digest from the command line.
#[derive(Clone, Debug)]
struct Sha512Digest([u8; 64]);

fn parse_sha512(text: &str) -> Result<Sha512Digest, String> {
    let digits = text.strip_prefix("sha512:").ok_or("write sha512:HEX")?;
    let mut bytes = [0; 64];
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|_| "SHA-512 has 128 hexadecimal digits".to_owned())?;
    Ok(Sha512Digest(bytes))
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The context of a digest is too long.
    #[error("a context has at most {CONTEXT_BYTES_MAX} bytes, this one has {found}")]
    Context {
        /// Bytes in it.
        found: usize,
    },
    /// One output for several files.
    #[error("--output takes one signature, and {files} files are to be signed")]
    OneOutput {
        /// How many.
        files: usize,
    },
    /// The key's certificate cannot be read back.
    #[error("the key's certificate is not one")]
    Certificate(#[source] ssh_key::Error),
    /// The signature that was made does not hold.
    #[error("the signature that was made does not hold")]
    Check(#[source] Flaw),
}

impl Coded for SignError {
    fn code(&self) -> &'static str {
        match self {
            Self::Context { .. } => "sign.context",
            Self::OneOutput { .. } => "sign.one-output",
            Self::Certificate(_) => "sign.certificate",
            Self::Check(_) => "sign.check",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_file_keeps_the_whole_name_of_its_file() {
        assert_eq!(signature_path(Path::new("a/b.tar.gz")), Path::new("a/b.tar.gz.sig"));
    }

    #[test]
    fn a_digest_of_another_hash_or_length_is_refused() {
        parse_sha512(&format!("sha512:{}", "ab".repeat(64))).unwrap();
        parse_sha512(&format!("sha512:{}", "ab".repeat(32))).unwrap_err();
        parse_sha512(&format!("sha256:{}", "ab".repeat(32))).unwrap_err();
    }
}
