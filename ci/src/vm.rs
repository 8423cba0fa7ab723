//! `cargo xtask vm`: the real programs in a virtual machine whose memory, disks and swap are read
//! from outside, after every way a key's life can end.
//!
//! Method, table and limits are in `docs/proof.md`.

mod bench;
mod cases;
mod error;
mod guest;
mod image;
mod machine;
mod payload;
mod qmp;
mod row;
mod table;
mod tools;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use serde::Serialize;

use self::bench::Bench;
use self::cases::{KEYS, SESSIONS, Session};
pub(crate) use self::error::VmError;
pub(crate) use self::image::Image;
use self::machine::Boot;
use self::payload::Programs;
use self::row::Row;
use crate::programs::repository;

/// Search the memory, disks and swap of a virtual machine for keys whose life ended in it
///
/// Boots Debian under QEMU, without KVM, twice at a time: with init_on_free=0 and =1. Fails where a
/// key is found that may not be, where a control is not found, and where a receipt says anything
/// else than what happened. Needs root for the image of the guest, which is made once.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// Run only cases whose name contains TEXT (can be repeated)
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,

    /// Run with this setting of init_on_free only (0 or 1)
    #[arg(long, value_name = "SETTING", value_parser = clap::value_parser!(u8).range(0..=1))]
    init_on_free: Option<u8>,

    /// Put this evanesce into the guest; by default it is built first, in the release profile
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    /// Appraise with this evanesce, a build with danger-replaced-roots; by default it is built first
    #[arg(long, value_name = "PATH")]
    appraiser: Option<PathBuf>,

    /// Write the rows to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Put the table into docs/proof.md
    #[arg(long)]
    table: bool,

    /// Only make the image of the guest
    #[arg(long)]
    image_only: bool,
}

/// Runs the cases.
pub(crate) fn run(args: &VmArgs) -> Result<VmReport, VmError> {
    tools::check()?;
    let begin = Instant::now();
    let image = Image::get(&|what| say(begin, what))?;
    let mut report = VmReport::default();
    if args.image_only {
        return Ok(report);
    }
    let programs = Programs::build(args.binary.as_deref(), args.appraiser.as_deref())?;
    let settings = [false, true]
        .into_iter()
        .filter(|setting| args.init_on_free.is_none_or(|wanted| wanted == u8::from(*setting)));
    let results: Vec<Result<VmReport, VmError>> = thread::scope(|scope| {
        let (image, programs) = (&image, &programs);
        let guests: Vec<_> = settings
            .map(|setting| scope.spawn(move || with_setting(setting, image, programs, args, begin)))
            .collect();
        guests
            .into_iter()
            .map(|guest| guest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    for result in results {
        report.add(result?);
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).expect("rows are plain data");
        fs::write(path, text + "\n").map_err(VmError::io(format!("write {}", path.display())))?;
    }
    if args.table {
        table::put_into(&repository().join("docs/proof.md"), &table::markdown(&report.rows))?;
    }
    Ok(report)
}

/// All sessions that have a case to run, one after the other.
fn with_setting(
    init_on_free: bool,
    image: &Image,
    programs: &Programs,
    args: &VmArgs,
    begin: Instant,
) -> Result<VmReport, VmError> {
    let wanted =
        |name: &str| args.cases.is_empty() || args.cases.iter().any(|text| name.contains(text));
    let mut report = VmReport::default();
    // Where both settings are run, what does not depend on them is run once.
    let once = !init_on_free || args.init_on_free.is_some();
    for Session { both_settings, cases } in SESSIONS {
        if !both_settings && !once {
            continue;
        }
        let cases: Vec<_> = cases.iter().filter(|(name, _)| wanted(name)).collect();
        if cases.is_empty() {
            continue;
        }
        let setting = u8::from(init_on_free);
        let mut guest = None;
        for (name, case) in cases {
            let mut bench = match guest.take() {
                Some(bench) => bench,
                None => {
                    say(begin, &format!("init_on_free={setting}: booting"));
                    Bench::boot(image, programs, Boot { init_on_free, keys: KEYS })?
                }
            };
            say(begin, &format!("init_on_free={setting}: {name}"));
            match case(&mut bench) {
                Ok(()) => guest = Some(bench),
                // What was found stays found; the next case gets a guest of its own.
                Err(error) => {
                    let error = bench.explain(error);
                    say(begin, &format!("init_on_free={setting}: {name}: {error}"));
                    bench.fault(format!("{name} did not come to its end: {error}"));
                    report.add(bench.into_results());
                }
            }
        }
        report.add(guest.map(Bench::into_results).unwrap_or_default());
    }
    Ok(report)
}

#[expect(clippy::print_stderr, reason = "minutes without a word would look like a hang")]
fn say(begin: Instant, what: &str) {
    eprintln!("{:>4} s  {what}", begin.elapsed().as_secs());
}

/// What was found, in the order of the cases.
#[derive(Debug, Default, Serialize)]
pub(crate) struct VmReport {
    rows: Vec<Row>,
    /// What was shown that is no row.
    shown: Vec<String>,
    /// What is wrong and no row.
    faults: Vec<String>,
}

impl VmReport {
    fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.shown.extend(other.shown);
        self.faults.extend(other.faults);
    }

    /// Whether everything is as it has to be.
    pub(crate) fn holds(&self) -> bool {
        self.faults.is_empty() && self.rows.iter().all(|row| row.holds)
    }
}

impl fmt::Display for VmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&table::markdown(&self.rows))?;
        for row in self.rows.iter().filter(|row| row.keys_found > 0 && row.forms.len() < FORMS_MAX)
        {
            let setting = u8::from(row.init_on_free);
            let forms = row.forms.join(", ");
            writeln!(f, "init_on_free={setting}, {}, {}: {forms}", row.case, row.moment)?;
        }
        for shown in &self.shown {
            writeln!(f, "{shown}")?;
        }
        for fault in &self.faults {
            writeln!(f, "wrong: {fault}")?;
        }
        let wrong = self.rows.iter().filter(|row| !row.holds).count() + self.faults.len();
        write!(f, "{} rows, {wrong} wrong", self.rows.len())
    }
}

/// More forms than this say only that a whole key was there.
const FORMS_MAX: usize = 8;
