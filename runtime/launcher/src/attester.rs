//! Evidence of the machine: what it is to be about, and the process that asks for it.
//!
//! Neither this process nor a worker opens the kernel's interface. An attester of its own does,
//! started for one request and gone after it; what it must put into the report was computed here
//! and is looked for in what it brings back. For a worker in a machine of its own the machine's
//! attester is asked, which vouches for that worker's key alone.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use evanesce_evidence::{Endorsements, EvidenceEnvelope, configuration_text};
use evanesce_ledger::NotaryKey;
use evanesce_protocol::channel::{Channel, ReceiveError, Received, SendError};
use evanesce_protocol::evidence::{
    AttesterOrder, AttesterReport, Binding, CollectError, Nonce, NotaryPoint, RawEvidence,
    RuntimeConfiguration, Subject,
};
use evanesce_protocol::machine::Vouch;
use evanesce_protocol::{Digest, KeyOrigin, PublicKey, WorkloadId};

use crate::machine::MachineAttester;
use crate::notary::NotaryError;
use crate::plan::{AttestPlan, Plan};
use crate::process::HeldProcess;
use crate::worker_image::{ImageError, SealedImage, WorkerImage};

/// How a workload's worker is to be used, with a key of this origin.
pub(crate) fn configuration_of(
    plan: &Plan,
    id: &WorkloadId,
    origin: KeyOrigin,
) -> RuntimeConfiguration {
    RuntimeConfiguration {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        workload: Some(id.clone()),
        origin: Some(origin),
        key_use: Some(plan.grants.key_use()),
        grants: plan.grants.as_slice().iter().map(ToString::to_string).collect(),
        signatures_max: Some(plan.signatures_max),
        ttl_ms: Some(u64::try_from(plan.ttl.as_millis()).unwrap_or(u64::MAX)),
        degraded: plan.degraded_names(),
    }
}

/// The configuration of evidence that speaks for no workload.
pub(crate) fn configuration_of_installation() -> RuntimeConfiguration {
    RuntimeConfiguration {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        workload: None,
        origin: None,
        key_use: None,
        grants: Vec::new(),
        signatures_max: None,
        ttl_ms: None,
        degraded: Vec::new(),
    }
}

/// Whose attester is asked.
#[derive(Clone, Debug)]
pub(crate) enum Attester {
    /// That of the machine that this process is on.
    Here,
    /// That of the machine that a worker has for itself.
    OfMachine(MachineAttester),
}

/// Collects evidence about `subject`.
pub(crate) fn collect(
    attester: &Attester,
    plan: &AttestPlan,
    subject: Subject,
    nonce: Nonce,
    notary: &NotaryKey,
    configuration: &RuntimeConfiguration,
) -> Result<EvidenceEnvelope, AttestError> {
    let configuration = configuration_text(configuration);
    let point = notary.to_sec1().try_into().expect("an uncompressed point has 65 bytes");
    let binding = Binding {
        subject,
        nonce,
        notary: NotaryPoint::from_bytes(point),
        signer: WorkerImage::signer_digest(),
        worker: WorkerImage::digest(),
        configuration: Digest::of(configuration.as_bytes()),
    };
    let report_data = binding.report_data();
    let raw = match attester {
        Attester::Here => ask(&AttesterOrder::Collect {
            report_data: report_data.to_vec(),
            tsm_root: plan.tsm_root.as_ref().map(|root| root.display().to_string()),
            source: plan.source,
        })?,
        Attester::OfMachine(machine) => {
            let nobody = || CollectError::Untrue { what: "an installation".to_owned() };
            machine.ask(&Vouch {
                public_key: *subject
                    .public_key()
                    .ok_or_else(nobody)
                    .map_err(AttestError::Collect)?,
                release_key: subject.release_key().copied(),
                nonce,
                notary: binding.notary,
                configuration: configuration.clone(),
                source: plan.source,
            })?
        }
    };
    if !raw.is_within_limits() || raw.report_data() != Some(&report_data) {
        return Err(AttestError::Collect(CollectError::ReportData));
    }
    let endorsements = Endorsements::default();
    Ok(EvidenceEnvelope { binding, configuration, raw, endorsements })
}

/// What evidence about a workload's key binds, beside the nonce. Can be used from any thread.
#[derive(Clone, Debug)]
pub struct SigningIdentity {
    pub(crate) public_key: PublicKey,
    pub(crate) notary: NotaryKey,
    pub(crate) configuration: RuntimeConfiguration,
    pub(crate) attester: Attester,
}

impl SigningIdentity {
    /// Collects evidence that binds the key and `nonce`. The ledger gets no row of it: whoever issued
    /// the nonce has the evidence.
    ///
    /// # Errors
    ///
    /// [`AttestError`] names the step. It may take more than a minute to say so.
    pub fn collect(
        &self,
        plan: &AttestPlan,
        nonce: Nonce,
    ) -> Result<EvidenceEnvelope, AttestError> {
        let subject = Subject::SigningIdentity { public_key: self.public_key };
        collect(&self.attester, plan, subject, nonce, &self.notary, &self.configuration)
    }
}

/// Starts an attester, gives it its one order and waits for its one report.
fn ask(order: &AttesterOrder) -> Result<RawEvidence, AttestError> {
    let image = SealedImage::attester()?;
    let (mut channel, theirs) = Channel::pair().map_err(AttestError::Spawn)?;
    let mut command = Command::new(image.path());
    command
        .arg0("evanesce-attester")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0);
    let mut process = HeldProcess::spawn_shielded(&mut command).map_err(AttestError::Spawn)?;
    drop(command); // with our copy of its end of the channel
    channel.send(order, &[]).map_err(AttestError::Send)?;
    let report = channel.receive_within::<AttesterReport>(REPORT_TIMEOUT);
    // It ends by itself; one that hangs in the kernel is killed when `process` is dropped.
    process.await_end(END_TIMEOUT).ok();
    told(report)
}

/// What an attester's report says.
pub(crate) fn told(
    report: Result<Received<AttesterReport>, ReceiveError>,
) -> Result<RawEvidence, AttestError> {
    match report.map_err(AttestError::Receive)?.message {
        AttesterReport::Collected(raw) => Ok(raw),
        AttesterReport::Refused(error) => Err(AttestError::Collect(error)),
    }
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The attester's file could not be made ready to run.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The attester could not be started.
    #[error("the attester could not be started")]
    Spawn(#[source] io::Error),
    /// It takes no order.
    #[error("the attester takes no order")]
    Send(#[source] SendError),
    /// It did not answer, or ended without a word.
    #[error("the attester did not report")]
    Receive(#[source] ReceiveError),
    /// It said why there is none.
    #[error(transparent)]
    Collect(CollectError),
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Entropy(#[source] io::Error),
    /// There is no notary to bind.
    #[error("there is no notary to bind")]
    Notary(#[from] Box<NotaryError>),
}

impl AttestError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Image(error) => error.code(),
            Self::Spawn(_) => "attester.spawn",
            Self::Send(_) | Self::Receive(_) => "attester.silent",
            Self::Collect(error) => error.code(),
            Self::Entropy(_) => "start.entropy",
            Self::Notary(error) => error.code(),
        }
    }
}

/// The attester itself is patient for a minute, and a quote may take half of one more.
pub(crate) const REPORT_TIMEOUT: Duration = Duration::from_secs(100);

/// For an attester that has reported.
const END_TIMEOUT: Duration = Duration::from_secs(2);
