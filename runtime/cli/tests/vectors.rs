//! Every vector of `../shared/vectors` through the command: its verdict, for its reason.
//!
//! They are other people's data and are not kept here. Where they are missing beside the repository,
//! the test says so and shows nothing. What is expected of the verdict is read from their manifest;
//! the reasons are here.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test and its helpers, a panic is the failure")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const SNP_SIGNATURE: &str = "snp.report.signature";
const TDX_SIGNATURE: &str = "tdx.quote.signature";
const TDX_ENCLAVE: &str = "tdx.quote.enclave";
const TDX_READABLE: &str = "tdx.quote.readable";
const JUNE_2026: &str = "2026-06-01T00:00:00Z";

/// Reports: name, and a rule that has to be among those that do not hold; none for a good one.
const SNP_REAL: &[(&str, &str)] = &[
    ("milan-v2-virtee", ""),
    ("milan-v2-debug-google", "snp.policy.debug"),
    ("milan-v3-ms", ""),
    ("genoa-v3-ms", ""),
    ("turin-v5-ms", ""),
    ("azure-milan-v2-cda", ""),
    ("azure-milan-v2-WRONG-VCEK", SNP_SIGNATURE),
    ("milan-v2-VCEK-new-invalid", "snp.chain.signature"),
];

const SNP_MUTATED: &[(&str, &str)] = &[
    ("all_zero.bin", "snp.report.version"),
    ("chip_id_masked_v3.bin", "snp.chip.named"),
    ("current_tcb_reserved.bin", "snp.tcb.certified"),
    ("guest_svn.bin", SNP_SIGNATURE),
    ("id_key_digest_flip.bin", "snp.guest.id-key"),
    ("key_info_signing_key_none.bin", "snp.key.kind"),
    ("plat_info_alias.bin", "snp.platform.alias-check"),
    ("policy_debug_set.bin", "snp.policy.debug"),
    ("policy_reserved_hi.bin", "snp.policy.unknown"),
    ("reported_tcb_reserved.bin", "snp.tcb.certified"),
    ("reserved_0x18b.bin", "snp.report.reserved"),
    ("reserved_0x208.bin", "snp.report.reserved"),
    ("sig_algo_0.bin", "snp.report.algorithm"),
    ("sig_r_pad_nonzero.bin", "snp.report.padding"),
    ("sig_trailing_nonzero.bin", "snp.report.padding"),
    ("truncated_1183.bin", "snp.report.length"),
    ("version_1.bin", "snp.report.version"),
    ("version_5_as.bin", "snp.report.version-allowed"),
    ("vmpl_1.bin", "snp.guest.vmpl"),
];

/// Quote and collateral, as the manifest's rows of pairs have them.
const TDX_PAIRS: &[(&str, &str, &str)] = &[
    ("v4-b0c06f-phala", "b0c06f-2025-06", ""),
    ("v4-cos113-gcp-google", "00806f-2025-01", ""),
    ("v5-90c06f-oldtcb-phala", "90c06f-2026-02", "tdx.tcb.level"),
    ("v4-DEBUG-trustee", "50806f-2026-03", "tdx.td.debug"),
    ("v4-nosept-zkdcap", "00806f-2025-01", "tdx.td.sept-ve-disable"),
    ("v4-b0c06f-phala", "90c06f-2026-02", "tdx.collateral.platform"),
];

const TDX_MUTATED: &[(&str, &str)] = &[
    ("att_key_type_flip.bin", TDX_READABLE),
    ("tee_type_flip.bin", TDX_READABLE),
    ("mrsignerseam_flip.bin", TDX_SIGNATURE),
    ("td_attributes_sept_flip.bin", TDX_SIGNATURE),
    ("xfam_flip.bin", TDX_SIGNATURE),
    ("mrconfigid_flip.bin", TDX_SIGNATURE),
    ("rtmr3_flip.bin", TDX_SIGNATURE),
    ("report_data_flip.bin", TDX_SIGNATURE),
    ("quote_sig_r_flip.bin", TDX_SIGNATURE),
    ("qe_report_sig_flip.bin", TDX_ENCLAVE),
    ("qe_auth_data_flip.bin", TDX_ENCLAVE),
    ("truncated_100.bin", TDX_READABLE),
    ("empty.bin", TDX_READABLE),
];

/// Of the manifest's changes to collateral, those that are files.
const COLLATERAL_MUTATED: &[&str] = &["tcbinfo_sig_flip", "pckcrl_is_rootcrl", "rootcrl_byte"];

#[test]
fn every_snp_vector_gets_its_verdict_for_its_reason() {
    let Some(vectors) = Vectors::open() else { return };
    let expected = vectors.rows("## SNP, real");
    assert_eq!(names(&expected), SNP_REAL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for ((name, reason), row) in SNP_REAL.iter().zip(&expected) {
        // A description may hold the sign that parts cells: the verdict is a cell of its own.
        let wanted = if row.iter().any(|cell| cell == "VALID") { 0 } else { 1 };
        assert_eq!(wanted == 0, reason.is_empty(), "{name}: the manifest says {row:?}");
        let (report, vek) = (vectors.report(name), vectors.vek(name));
        let policy = vectors.snp_policy(&report, &vek);
        vectors.assert_snp(&report, &vek, &policy, wanted, reason);
    }

    let genoa = (vectors.report("genoa-v3-ms"), vectors.vek("genoa-v3-ms"));
    let policy = vectors.snp_policy(&genoa.0, &genoa.1);
    let rows = vectors.rows("## SNP, mutated");
    let found: Vec<_> = SNP_MUTATED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(&rows), found);
    for (name, reason) in SNP_MUTATED {
        let report = vectors.path(&format!("snp/mutated/{name}"));
        vectors.assert_snp(&report, &genoa.1, &policy, 1, reason);
    }
    let milan = vectors.vek("milan-v3-ms");
    vectors.assert_snp(&genoa.0, &milan, &policy, 1, "snp.chip.generation");
    assert_eq!(vectors.files("snp/mutated"), SNP_MUTATED.len());
}

#[test]
fn every_tdx_vector_gets_its_verdict_for_its_reason() {
    let Some(vectors) = Vectors::open() else { return };
    let rows = vectors.rows("## TDX quote + collateral pairs");
    let pairs: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let ours: Vec<_> =
        TDX_PAIRS.iter().map(|(quote, collateral, _)| (*quote, *collateral)).collect();
    assert_eq!(pairs, ours);
    let base = (vectors.quote("v4-b0c06f-phala"), vectors.collateral("b0c06f-2025-06"));
    let at = rfc3339(&rows[0][2]);
    let policy = vectors.tdx_policy(&base.0, &base.1, &at);
    for ((quote, collateral, reason), row) in TDX_PAIRS.iter().zip(&rows) {
        let wanted = if row[4].starts_with("ok") { 0 } else { 1 };
        assert_eq!(wanted == 0, reason.is_empty(), "{quote}: the manifest says {}", row[4]);
        let (quote, collateral) = (vectors.quote(quote), vectors.collateral(collateral));
        let at = rfc3339(&row[2]);
        // A policy of its own for a good one; the others fail before their policy counts.
        let own = (wanted == 0).then(|| vectors.tdx_policy(&quote, &collateral, &at));
        let policy = own.as_ref().unwrap_or(&policy);
        vectors.assert_tdx(&quote, &collateral, policy, &at, wanted, reason);
    }

    let rows = vectors.rows("## TDX, mutated quotes");
    assert_eq!(names(&rows), TDX_MUTATED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, reason) in TDX_MUTATED {
        let quote = vectors.path(&format!("tdx/mutated/{name}"));
        vectors.assert_tdx(&quote, &base.1, &policy, &at, 1, reason);
    }
    for name in COLLATERAL_MUTATED {
        let collateral = vectors.path(&format!("tdx/mutated/collateral_{name}.json"));
        let reason = "tdx.collateral.signature";
        vectors.assert_tdx(&base.0, &collateral, &policy, &at, 1, reason);
    }
    for seconds in ["1750000000", "1760000000"] {
        let at = rfc3339(seconds);
        vectors.assert_tdx(&base.0, &base.1, &policy, &at, 1, "tdx.collateral.current");
    }
    // The manifest's other changes to collateral, made here.
    let genuine = fs::read_to_string(&base.1).unwrap();
    for (part, from, to) in
        [("tcb_info", "UpToDate", "OutOfDate"), ("qe_identity", "UpToDate", "OutOfDate")]
    {
        let mut changed: Value = serde_json::from_str(&genuine).unwrap();
        changed[part] = changed[part].as_str().unwrap().replacen(from, to, 1).into();
        let path = vectors.scratch.path().join("collateral.json");
        fs::write(&path, changed.to_string()).unwrap();
        vectors.assert_tdx(&base.0, &path, &policy, &at, 1, "tdx.collateral.signature");
    }
    let zeros = vectors.scratch.path().join("padded.bin");
    fs::write(&zeros, [fs::read(&base.0).unwrap(), vec![0; 2000]].concat()).unwrap();
    vectors.assert_tdx(&zeros, &base.1, &policy, &at, 0, "");
    assert_eq!(vectors.files("tdx/mutated"), TDX_MUTATED.len() + COLLATERAL_MUTATED.len());
}

#[test]
fn expired_missing_and_foreign_endorsements_and_an_old_clock_say_what_to_fix() {
    let Some(vectors) = Vectors::open() else { return };
    let (report, vek) = (vectors.report("genoa-v3-ms"), vectors.vek("genoa-v3-ms"));
    let policy = vectors.snp_policy(&report, &vek);
    let appraise = |args: &[&str], vek: Option<&Path>| {
        let mut command = vectors.evanesce(&["attest", "appraise", "--snp-report"]);
        command.arg(&report).arg("--policy").arg(&policy).args(args);
        command.args(vek.map(|_| "--vek")).args(vek);
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };

    let (status, text) = appraise(&["--at", JUNE_2026], None);
    assert_eq!(status, Some(1));
    assert!(text.contains("fetch it from AMD's key distribution service"), "{text}");
    let (status, text) = appraise(&["--at", "2019-06-01T00:00:00Z"], Some(&vek));
    assert_eq!(status, Some(1));
    assert!(text.contains("set this machine's clock"), "{text}");
    let (status, text) = appraise(&["--at", "2060-06-01T00:00:00Z"], Some(&vek));
    assert_eq!(status, Some(1));
    assert!(text.contains("snp.vek.validity") && text.contains("--at"), "{text}");
    let other = vectors.vek("azure-milan-v2-WRONG-VCEK");
    let (status, text) = appraise(&["--at", JUNE_2026], Some(&other));
    assert_eq!(status, Some(1));
    assert!(text.contains("snp.chip.certificate"), "{text}");
}

#[test]
fn an_image_that_the_policy_does_not_list_is_intact_and_unknown() {
    let Some(vectors) = Vectors::open() else { return };
    let (report, vek) = (vectors.report("genoa-v3-ms"), vectors.vek("genoa-v3-ms"));
    let policy = vectors.snp_policy(&report, &vek);
    let text = fs::read_to_string(&policy).unwrap();
    let measurement = text.lines().find(|line| line.starts_with("measurements")).unwrap();
    let other = format!("measurements = [\"{}\"]", "a5".repeat(48));
    fs::write(&policy, text.replace(measurement, &other)).unwrap();

    vectors.assert_snp(&report, &vek, &policy, 3, "snp.guest.measurement");
}

/// The vectors, and a directory to work in.
struct Vectors {
    root: PathBuf,
    manifest: String,
    scratch: tempfile::TempDir,
}

impl Vectors {
    #[expect(clippy::print_stderr, reason = "a test that shows nothing has to say so")]
    fn open() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
        let Ok(manifest) = fs::read_to_string(root.join("MANIFEST.md")) else {
            eprintln!("nothing shown: {} is not there", root.display());
            return None;
        };
        Some(Self { root, manifest, scratch: tempfile::tempdir().unwrap() })
    }

    /// The rows of the first table below a heading, cell by cell.
    fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let (_, rest) = self.manifest.split_once(heading).unwrap();
        let cells = |line: &str| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        let lines = rest.lines().skip_while(|line| !line.starts_with('|'));
        // Behind head and rule. A cell may hold a line break: what does not start a row ends it.
        lines
            .take_while(|line| !line.starts_with('#') && !line.starts_with('`'))
            .filter(|line| line.starts_with('|'))
            .skip(2)
            .map(cells)
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn files(&self, name: &str) -> usize {
        fs::read_dir(self.path(name)).unwrap().count()
    }

    fn report(&self, name: &str) -> PathBuf {
        self.path(&format!("snp/{name}.report.bin"))
    }

    fn vek(&self, name: &str) -> PathBuf {
        let der = self.path(&format!("snp/{name}.vek.der"));
        if der.exists() { der } else { self.path(&format!("snp/{name}.vek.pem")) }
    }

    fn quote(&self, name: &str) -> PathBuf {
        self.path(&format!("tdx/{name}.quote.bin"))
    }

    fn collateral(&self, name: &str) -> PathBuf {
        self.path(&format!("tdx/collateral-{name}.json"))
    }

    fn evanesce(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evanesce"));
        command.env_clear().env("EVANESCE_STATE_DIR", self.scratch.path().join("state")).args(args);
        command
    }

    /// The policy that `policy init` writes, but for what the vectors have not: a revocation list.
    fn snp_policy(&self, report: &Path, vek: &Path) -> PathBuf {
        let mut command = self.evanesce(&["attest", "policy", "init", "--from-snp-report"]);
        command.arg(report).arg("--vek").arg(vek);
        self.policy(command)
    }

    fn tdx_policy(&self, quote: &Path, collateral: &Path, at: &str) -> PathBuf {
        let mut command = self.evanesce(&["attest", "policy", "init", "--at", at]);
        command.arg("--from-tdx-quote").arg(quote).arg("--collateral").arg(collateral);
        self.policy(command)
    }

    fn policy(&self, mut command: Command) -> PathBuf {
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let text = text.replace("required = true", "required = false");
        let number = fs::read_dir(self.scratch.path()).unwrap().count();
        let path = self.scratch.path().join(format!("policy-{number}.toml"));
        fs::write(&path, text).unwrap();
        path
    }

    #[track_caller]
    fn assert_snp(&self, report: &Path, vek: &Path, policy: &Path, status: i32, reason: &str) {
        let bytes = fs::read(report).unwrap();
        let report_data = bytes.get(0x50..0x90).map_or("00".repeat(64), hex::encode);
        let mut command = self.evanesce(&["attest", "appraise", "--json", "--at", JUNE_2026]);
        command.arg("--snp-report").arg(report).arg("--vek").arg(vek);
        command.args(["--report-data", &report_data]);
        assert_verdict(command, policy, status, reason, report);
    }

    #[track_caller]
    fn assert_tdx(
        &self,
        quote: &Path,
        collateral: &Path,
        policy: &Path,
        at: &str,
        status: i32,
        reason: &str,
    ) {
        let bytes = fs::read(quote).unwrap();
        let offset = if bytes.first() == Some(&5) { 574 } else { 568 };
        let report_data = bytes.get(offset..offset + 64).map_or("00".repeat(64), hex::encode);
        let mut command = self.evanesce(&["attest", "appraise", "--json", "--at", at]);
        command.arg("--tdx-quote").arg(quote).arg("--collateral").arg(collateral);
        command.args(["--report-data", &report_data]);
        assert_verdict(command, policy, status, reason, quote);
    }
}

/// Runs an appraisal: its exit status, the reason among the rules that do not hold, and words on
/// each of them.
#[track_caller]
fn assert_verdict(mut command: Command, policy: &Path, status: i32, reason: &str, what: &Path) {
    let out = command.arg("--policy").arg(policy).output().unwrap();
    let (text, errors) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let what = what.display();
    assert_eq!(out.status.code(), Some(status), "{what}: {text}{errors}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let outcome = BTreeMap::from([(0, "trusted"), (1, "refused"), (3, "unknown")])[&status];
    assert_eq!(report["outcome"], outcome, "{what}");
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["holds"] == false).collect();
    for check in &failed {
        for member in ["asks", "expected", "found", "advice"] {
            assert!(check[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: {check}");
        }
    }
    let rules: Vec<_> = failed.iter().map(|check| check["rule"].as_str().unwrap()).collect();
    assert_eq!(rules.contains(&reason), !reason.is_empty(), "{what}: {rules:?}");
    assert_eq!(rules.is_empty(), reason.is_empty(), "{what}: {rules:?}");
    assert!(!report["not_checked"].as_array().unwrap().is_empty(), "{what}");
}

fn names(rows: &[Vec<String>]) -> Vec<&str> {
    rows.iter().map(|row| row[0].as_str()).collect()
}

/// Seconds of the Unix era as the command line wants them.
fn rfc3339(seconds: &str) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.parse().unwrap());
    humantime::format_rfc3339_seconds(at).to_string()
}
