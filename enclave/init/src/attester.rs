//! The machine's attester: a program that is started for one request and gone after it.

use std::process::{Child, Command, Stdio};

use evanesce_protocol::channel::Channel;
use evanesce_protocol::evidence::{
    AttesterOrder, AttesterReport, Binding, CollectError, EvidenceSource,
};

/// One that was started and has not reported yet.
#[derive(Debug)]
pub(crate) struct Attester {
    process: Child,
    channel: Channel,
}

impl Attester {
    /// Starts one and gives it its order.
    pub(crate) fn start(binding: &Binding, source: EvidenceSource) -> Result<Self, CollectError> {
        let failed = |error: &dyn std::error::Error| CollectError::Io {
            step: "starting the attester".to_owned(),
            reason: error.to_string(),
        };
        let (channel, theirs) = Channel::pair().map_err(|error| failed(&error))?;
        let process = Command::new(ATTESTER)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed(&error))?;
        let report_data = binding.report_data().to_vec();
        let order = AttesterOrder::Collect { report_data, tsm_root: None, source };
        channel.send(&order, &[]).map_err(|error| failed(&error))?;
        Ok(Self { process, channel })
    }

    /// What it says, once there is something to be read.
    pub(crate) fn finish(mut self) -> AttesterReport {
        let report = self.channel.receive::<AttesterReport>();
        // It has nothing more to do, whatever it said.
        self.process.kill().ok();
        self.process.wait().ok();
        match report {
            Ok(received) => received.message,
            Err(error) => AttesterReport::Refused(CollectError::Io {
                step: "asking the attester".to_owned(),
                reason: error.to_string(),
            }),
        }
    }

    pub(crate) const fn channel(&self) -> &Channel {
        &self.channel
    }
}

const ATTESTER: &str = "/attester";
