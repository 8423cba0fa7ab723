//! A holder and an asker, and the machine that the asker is in.

use std::fs;
use std::path::{Path, PathBuf};

use evanesce_protocol::evidence::provider;
use evanesce_residue::Canary;
use evanesce_tests::{Installation, Outcome, Running};
use serde_json::Value;

use crate::genoa::Machine;
use crate::installation;
use crate::tsm_fs::{Firmware, TsmFs};

/// A machine that does not exist: what its kernel hands over, and what vouches for that.
pub(crate) struct Confidential {
    pub(crate) provider: &'static str,
    pub(crate) auxblob: Option<Vec<u8>>,
    pub(crate) firmware: Firmware,
    /// The vendor's certificates, PEM.
    pub(crate) roots: String,
    /// Who keeps what else the vendor has to say: a file below `collateral`, and its content.
    pub(crate) kept: (Side, String, Vec<u8>),
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Holder,
    Asker,
}

impl Confidential {
    /// In the shape of AMD's.
    pub(crate) fn snp() -> Self {
        let machine = Machine::new();
        let firmware = Machine::new();
        Self {
            provider: provider::SNP,
            auxblob: Some(machine.certificate_table()),
            firmware: Box::new(move |data| firmware.report(data)),
            roots: machine.roots,
            kept: (Side::Holder, "snp/Genoa/crl.der".to_owned(), machine.crl),
        }
    }
}

/// A holder with a key and a policy, and an asker in a machine that the policy lists.
pub(crate) struct Pair {
    pub(crate) holder: Installation,
    pub(crate) asker: Installation,
    /// The key's file.
    key: PathBuf,
    tsm: TsmFs,
}

impl Pair {
    pub(crate) fn new() -> Option<Self> {
        Self::within(Confidential::snp())
    }

    /// With an asker in this machine.
    pub(crate) fn within(machine: Confidential) -> Option<Self> {
        Self::of_key(machine, &Canary::random().unwrap().to_pkcs8_pem(), None)
    }

    /// With this key, in this file where it is not to be in the holder's own directory. `None`
    /// where there is no machine to be had.
    pub(crate) fn of_key(machine: Confidential, pem: &str, file: Option<PathBuf>) -> Option<Self> {
        let (holder, asker) = (installation(), installation());
        let Confidential { provider, auxblob, firmware, roots, kept } = machine;
        let tsm = TsmFs::mount(provider, auxblob, firmware)?;
        let key = match file {
            Some(file) => file,
            None => holder.file("key.pem", pem),
        };
        holder.file("roots.pem", roots);
        holder.run(&["notary", "init"]).expect_status(0);
        let notary = fs::read(holder.state_dir().join("notary/notary.pem")).unwrap();
        asker.file("holder.pem", notary);
        asker.file("artifact", "the artifact");
        asker.run(&["notary", "init"]).expect_status(0);
        let pair = Self { holder, asker, key, tsm };
        pair.keep(kept);
        pair.list_asker();
        Some(pair)
    }

    fn keep(&self, (side, path, content): (Side, String, Vec<u8>)) {
        let here = match side {
            Side::Holder => &self.holder,
            Side::Asker => &self.asker,
        };
        let path = here.state_dir().join("collateral").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes a policy that lists the asker's machine and worker, for releases alone.
    fn list_asker(&self) {
        let Self { holder, asker, .. } = self;
        asker.file("first", "something else");
        asker.run(&["sign", "--attest", "--tsm-root", self.tsm(), "first"]).expect_status(0);
        let evidence = fs::read(asker.work_dir().join("first.evidence.json")).unwrap();
        holder.file("evidence.json", evidence);
        for (name, purpose) in [("signers", "signing-identity"), ("policy", "key-release")] {
            let from = ["--from-evidence", "evidence.json", "--purpose", purpose];
            let init = [&["attest", "policy", "init"], &from[..], &ROOTS].concat();
            let init = holder.evanesce(init).output().expect_status(0);
            let policy = init.stdout.replace("\"production\"", "\"development\"");
            let policy = policy.replace("age_hours_max = 720", "age_hours_max = 1000000");
            holder.file(&format!("{name}.toml"), policy);
        }
    }

    pub(crate) fn tsm(&self) -> &str {
        self.tsm.root.path().to_str().unwrap()
    }

    /// Starts the holder at `address`.
    pub(crate) fn listen(&self, address: &str, more: &[&str]) -> Running {
        let key = self.key.to_str().unwrap();
        let line = ["release", "--listen", address, "--key", key, "--policy", "policy.toml"];
        self.holder.evanesce(line.iter().chain(&ROOTS).chain(more)).start()
    }

    /// Signs with a key that is released by the holder at `source`.
    pub(crate) fn sign(&self, source: &str, more: &[&str]) -> Outcome {
        self.asker
            .evanesce(self.line(source).iter().map(String::as_str).chain(more.iter().copied()))
            .output()
    }

    pub(crate) fn line(&self, source: &str) -> Vec<String> {
        let line = ["sign", "artifact", "--force", "--key-from", source, "--holder", "holder.pem"];
        line.iter().chain(&["--tsm-root", self.tsm()]).map(|&word| word.to_owned()).collect()
    }

    /// The rows of one event in the ledger of `here`.
    pub(crate) fn rows(here: &Installation, event: &str) -> Vec<Value> {
        let rows = here.run(&["audit", "show", "--json"]).stdout;
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row["event"] == event).collect()
    }

    /// That nothing was released, and nothing signed with a released key.
    pub(crate) fn assert_nothing_released(&self) {
        assert_eq!(Self::rows(&self.holder, "released"), Vec::<Value>::new());
        assert!(!self.asker.work_dir().join("artifact.sig").exists());
    }
}

pub(crate) fn socket(directory: &Path) -> (PathBuf, String) {
    let path = directory.join("holder.sock");
    let address = format!("unix:{}", path.display());
    (path, address)
}

const ROOTS: [&str; 2] = ["--unsafe-trust-root", "roots.pem"];
