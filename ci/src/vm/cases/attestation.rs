//! Evidence through the kernel's own interfaces: collected in the guest, appraised outside.
//!
//! The modules of `tests/guest/modules` ask, the host signs as the firmware of a machine that does
//! not exist. Everything in between is as on a real machine: configfs and its rules, the device's
//! requests, `evanesce` as it is shipped. Only the appraisal has to be told of the roots, and so is
//! that of a build for tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::genoa::Machine as Chip;
use crate::programs::output;
use crate::vm::bench::{Bench, EVANESCE};
use crate::vm::error::VmError;

/// Linux 6.7 and later: a directory in configfs.
pub(crate) fn through_configfs(bench: &mut Bench) -> Result<(), VmError> {
    with_configfs(bench, |bench| collect_and_appraise(bench, "configfs-tsm", 1))
}

/// Does `work` in a guest whose kernel has configfs-tsm and a chip behind it.
pub(super) fn with_configfs(
    bench: &mut Bench,
    work: impl FnOnce(&mut Bench) -> Result<(), VmError>,
) -> Result<(), VmError> {
    bench.load(&["configfs", "tsm", "fake_tsm"])?;
    let mount = ["/bin/mount", "-t", "configfs", "configfs", "/sys/kernel/config"];
    bench.machine.guest.output(&mount)?;
    work(bench)?;
    let left = bench.machine.guest.output(&["/bin/ls", "/sys/kernel/config/tsm/report"])?;
    if !left.is_empty() {
        bench.fault(format!("requests were left in configfs: {left}"));
    }
    bench.machine.guest.output(&["/bin/umount", "/sys/kernel/config"])?;
    bench.unload(&["fake_tsm", "tsm", "configfs"])
}

/// Linux 5.19 and later: requests to a device.
pub(crate) fn through_the_device(bench: &mut Bench) -> Result<(), VmError> {
    bench.load(&["fake_sev_guest"])?;
    // Once to hear how large the certificates are, and once to have them.
    collect_and_appraise(bench, "/dev/sev-guest", 2)?;
    bench.unload(&["fake_sev_guest"])
}

/// A machine without either: refused, by name, and nothing is written.
pub(crate) fn nobody_to_ask(bench: &mut Bench) -> Result<(), VmError> {
    let ended = bench.machine.guest.run(&[EVANESCE, "attest", "collect", "--out", EVIDENCE])?;
    let written = bench.machine.guest.read(EVIDENCE).is_ok();
    if ended.status != 1 || written || !ended.stderr.contains("[attest.") {
        bench.fault(format!("without a chip: status {}, {}", ended.status, ended.stderr));
    }
    Ok(())
}

/// Collects through `interface`, which asks the firmware so many times.
fn collect_and_appraise(
    bench: &mut Bench,
    interface: &'static str,
    times: usize,
) -> Result<(), VmError> {
    let chip = Chip::new();
    let evidence = collect(bench, &chip, interface, times)?;
    let appraiser = bench.appraiser.clone();
    match appraise(&appraiser, &chip, &evidence) {
        Ok(()) => bench.show(format!("evidence through {interface}: collected and appraised")),
        Err(error) => bench.fault(format!("evidence through {interface}: {error}")),
    }
    // The same, but one byte of the measurement is another.
    let changed = evidence.replacen("FBQUFBQU", "FBQVFBQU", 1);
    if changed == evidence || appraise(&appraiser, &chip, &changed).is_ok() {
        bench.fault(format!("evidence through {interface}: a changed report was not refused"));
    }
    Ok(())
}

/// Collects evidence of the guest's installation, signed by `chip`.
pub(super) fn collect(
    bench: &mut Bench,
    chip: &Chip,
    interface: &'static str,
    times: usize,
) -> Result<String, VmError> {
    let nonce = "5a".repeat(32);
    // The shell says a line, so that the order to start it is done before it is.
    let line =
        format!("echo collecting; exec {EVANESCE} attest collect --nonce {nonce} --out {EVIDENCE}");
    bench.machine.guest.start("collect", &["/bin/sh", "-c", &line])?;
    sign_for(bench, chip, times)?;
    let guest = &mut bench.machine.guest;
    let ended = guest.finish("collect")?;
    if ended.status != 0 {
        let program = format!("attest collect through {interface}");
        return Err(VmError::InGuest { program, status: ended.status, said: ended.stderr });
    }
    let evidence = guest.read(EVIDENCE)?;
    guest.output(&["/bin/rm", EVIDENCE])?;
    Ok(evidence)
}

/// Signs so many requests of the guest as the chip's firmware does.
pub(super) fn sign_for(bench: &mut Bench, chip: &Chip, times: usize) -> Result<(), VmError> {
    let guest = &mut bench.machine.guest;
    for _ in 0..times {
        let data = guest.take_request()?;
        guest.give_answer(&chip.report(&data), &chip.certificate_table())?;
    }
    Ok(())
}

/// As a relying party does: a strict policy from evidence that is known to be good, and an
/// appraisal by it.
fn appraise(appraiser: &Path, chip: &Chip, evidence: &str) -> Result<(), VmError> {
    let folder = tempfile::tempdir().map_err(VmError::io("make a folder"))?;
    let file = |name: &str, contents: &[u8]| {
        fs::write(folder.path().join(name), contents).map_err(VmError::io("write evidence"))
    };
    file("evidence.json", evidence.as_bytes())?;
    file("roots.pem", chip.roots.as_bytes())?;
    file("crl.der", &chip.crl)?;
    let policy = policy_of(appraiser, folder.path())?;
    file("policy.toml", policy.as_bytes())?;
    let appraise = ["attest", "appraise", "--evidence", "evidence.json", "--policy", "policy.toml"];
    let given = ["--crl", "crl.der", "--unsafe-trust-root", "roots.pem"];
    output(evanesce_for_tests(appraiser, folder.path()).args(appraise).args(given))?;
    Ok(())
}

/// A policy that accepts `evidence.json` in `folder`, for tests.
pub(super) fn policy_of(appraiser: &Path, folder: &Path) -> Result<String, VmError> {
    let init = ["attest", "policy", "init", "--from-evidence", "evidence.json"];
    let strict = output(evanesce_for_tests(appraiser, folder).args(init))?;
    // Replaced roots are for development alone, and the revocation list was made once and for all.
    Ok(strict
        .replace("\"production\"", "\"development\"")
        .replace("age_hours_max = 720", "age_hours_max = 1000000"))
}

/// `evanesce` with replaceable roots, on the host, to be run in `folder`.
pub(super) fn evanesce_for_tests(appraiser: &Path, folder: &Path) -> Command {
    let mut evanesce = Command::new(appraiser);
    evanesce.current_dir(folder).env("EVANESCE_STATE_DIR", folder.join("state"));
    evanesce
}

const EVIDENCE: &str = "/run/evidence.json";
