//! A key that the host releases to a worker in the guest, through the kernel's configfs-tsm.
//!
//! The holder is a build for tests on the host, which takes the roots of a chip that does not exist;
//! the asker is `evanesce` as it is shipped, in the guest. The messages are carried as files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use evanesce_residue::Canary;
use serde_json::Value;
use tempfile::TempDir;

use super::attestation::{collect, evanesce_for_tests, policy_of, sign_for, with_configfs};
use crate::genoa::Machine as Chip;
use crate::programs::output;
use crate::vm::bench::{Bench, EVANESCE};
use crate::vm::error::VmError;

/// From the challenge to a signature in the guest, and the same request again.
pub(crate) fn through_configfs(bench: &mut Bench) -> Result<(), VmError> {
    with_configfs(bench, |bench| {
        let chip = Chip::new();
        let holder = Holder::new(bench, &chip)?;
        bench.machine.guest.output(&["/bin/mkdir", "-p", MEDIUM])?;
        put(bench, "/run/holder.pem", &holder.read("state/notary/notary.pem")?)?;
        put(bench, "/run/artifact", "the artifact\n")?;
        let line = ["release", "challenge", "--key", "key.pem", "--lifetime", "30m"];
        holder.evanesce(&[&line[..], &["--out", "challenge.json"]].concat())?;
        put(bench, &format!("{MEDIUM}/challenge.json"), &holder.read("challenge.json")?)?;

        // The worker in the guest shows what its machine says, and waits.
        let line = format!(
            "echo signing; exec {EVANESCE} sign --key-from {MEDIUM} --holder /run/holder.pem \
             /run/artifact"
        );
        bench.machine.guest.start("sign", &["/bin/sh", "-c", &line])?;
        sign_for(bench, &chip, 1)?;
        let request = bench.await_text(&format!("{MEDIUM}/request.json"))?;
        holder.write("request.json", &request)?;
        holder.answer("answer.json")?;
        put(bench, &format!("{MEDIUM}/answer.json"), &holder.read("answer.json")?)?;
        let ended = bench.machine.guest.finish("sign")?;
        if ended.status != 0 {
            let program = "sign --key-from".to_owned();
            return Err(VmError::InGuest { program, status: ended.status, said: ended.stderr });
        }

        // Both ledgers hold, and have the same transcript.
        bench.machine.guest.output(&[EVANESCE, "audit", "verify"])?;
        holder.evanesce(&["audit", "verify"])?;
        let show = ["audit", "show", "--json"];
        let rows = bench.machine.guest.output(&[&[EVANESCE][..], &show].concat())?;
        let received = transcript(&rows, "received");
        let released = transcript(&holder.evanesce(&show)?, "released");
        match received.is_some() && received == released {
            true => bench.show("release through configfs-tsm: received and signed".into()),
            false => bench.fault(format!("release: {released:?} released, {received:?} received")),
        }
        // What was used is not used again.
        if holder.answer("again.json").is_ok() {
            bench.fault("release: a request was answered twice".into());
        }
        Ok(())
    })
}

/// An installation on the host that has a key, and a policy that lists the guest.
struct Holder {
    folder: TempDir,
    program: PathBuf,
}

impl Holder {
    fn new(bench: &mut Bench, chip: &Chip) -> Result<Self, VmError> {
        let folder = tempfile::tempdir().map_err(VmError::io("make a folder"))?;
        let holder = Self { folder, program: bench.appraiser.clone() };
        let canary = Canary::random();
        let canary = canary.map_err(|_| VmError::Unexpected { what: "no random bytes".into() })?;
        holder.write("key.pem", &canary.to_pkcs8_pem())?;
        holder.write("roots.pem", &chip.roots)?;
        holder.evanesce(&["notary", "init"])?;
        let kept = holder.folder.path().join("state/collateral/snp/Genoa");
        fs::create_dir_all(&kept)
            .and_then(|()| fs::write(kept.join("crl.der"), &chip.crl))
            .map_err(VmError::io("keep a revocation list"))?;
        // Which worker and notary the guest has, it says itself; that it is this chip's guest, too.
        holder.write("evidence.json", &collect(bench, chip, "configfs-tsm", 1)?)?;
        let policy = policy_of(&holder.program, holder.folder.path())?;
        holder.write("policy.toml", &policy.replace("\"installation\"", "\"key-release\""))?;
        Ok(holder)
    }

    fn answer(&self, out: &str) -> Result<String, VmError> {
        let line = ["release", "answer", "--key", "key.pem", "--policy", "policy.toml"];
        let given = ["--unsafe-trust-root", "roots.pem", "--request", "request.json", "--out", out];
        self.evanesce(&[&line[..], &given].concat())
    }

    fn evanesce(&self, line: &[&str]) -> Result<String, VmError> {
        Ok(output(evanesce_for_tests(&self.program, self.folder.path()).args(line))?)
    }

    fn read(&self, name: &str) -> Result<String, VmError> {
        fs::read_to_string(self.folder.path().join(name))
            .map_err(VmError::io(format!("read {name}")))
    }

    /// Writes a file for its owner alone.
    fn write(&self, name: &str, text: &str) -> Result<(), VmError> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .map_err(VmError::io(format!("write {name}")))
    }
}

/// Writes a file in the guest, which is there once it is whole.
fn put(bench: &mut Bench, path: &str, text: &str) -> Result<(), VmError> {
    let new = format!("{path}.new");
    let guest = &mut bench.machine.guest;
    guest.output(&["/bin/sh", "-c", &format!(": > {new}")])?;
    guest.write(&new, text)?;
    guest.output(&["/bin/mv", &new, path]).map(drop)
}

/// The transcript in the only row of an event.
fn transcript(rows: &str, event: &str) -> Option<String> {
    let rows = rows.lines().filter_map(|row| serde_json::from_str::<Value>(row).ok());
    let mut rows = rows.filter(|row| row["event"] == event);
    let found = rows.next()?["transcript"].as_str()?.to_owned();
    rows.next().is_none().then_some(found)
}

const MEDIUM: &str = "/run/medium";
