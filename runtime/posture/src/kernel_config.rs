//! How the running kernel was configured.

use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::host::Files;

/// The configuration of the running kernel and where it was found: `/proc/config.gz`, which is the
/// kernel's own word, else the file that distributions install beside it.
pub(crate) struct KernelConfig {
    pub(crate) source: String,
    text: String,
}

impl KernelConfig {
    pub(crate) fn of(host: &dyn Files) -> Option<Self> {
        if let Some(text) = host.read(IN_PROC).ok().and_then(|bytes| inflate(&bytes)) {
            return Some(Self { source: IN_PROC.to_owned(), text });
        }
        let release = host.read("/proc/sys/kernel/osrelease").ok()?;
        let source = format!("/boot/config-{}", String::from_utf8_lossy(&release).trim_end());
        let text = String::from_utf8_lossy(&host.read(&source).ok()?).into_owned();
        Some(Self { source, text })
    }

    /// Whether an option is built in. One that is not named is not there.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.text.lines().any(|line| line.strip_prefix(option) == Some("=y"))
    }
}

fn inflate(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    GzDecoder::new(bytes).take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

const IN_PROC: &str = "/proc/config.gz";

/// Ten times what kernels have.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
