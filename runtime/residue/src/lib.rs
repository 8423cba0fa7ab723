//! Every form a canary key can take, and the search for them.
//!
//! "No dump of this host holds the key" is shown with a key that is *made for being searched for*:
//! a [`Canary`]. It lives through the real signer, [`Canary::forms`] computes everything the signer
//! may have turned it into on the way, and a [`Scanner`] looks for fragments of any of it in
//! process memory, core files, devices, images and directories.
//!
//! ```
//! use evanesce_residue::{Canary, Scanner, unwatched};
//!
//! let canary = Canary::random()?;
//! let scanner = Scanner::new(&canary.forms(&[b"a message it signed"]));
//!
//! let mut dump = vec![0; 4096];
//! dump[1001..1009].copy_from_slice(&canary.seed()[8..16]); // a leak of eight bytes
//! let report = scanner.scan_reader("dump", 0, &dump[..], &mut unwatched())?;
//!
//! assert_eq!((report.hits[0].form.as_str(), report.hits[0].offset), ("seed", 1001));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | a fragment of a form is found wherever it lies: any offset, any alignment, across reads | the index holds every fragment's words, the search visits every fourth byte ([`Scanner`]) | `tests/planted.rs`, for every form |
//! | what is not searchable is said | [`Forms`] lists what is left out and why; fragments with too little variety are counted | `forms.rs` |
//! | nothing unreadable counts as clean | every byte is scanned, absent or listed in [`ScanReport::unreadable`]; the sums are tested | `tests/process.rs` |
//! | no real key is read as a canary | a mark that fits its key alone, looked at first ([`Canary::read_file`]) | `canary_file.rs` |
//! | the forms are right | known answers, an independent big-integer calculation, and signatures recomputed from the forms | `forms.rs`, `recode.rs` |
//!
//! # The searching process
//!
//! It holds every form it looks for, in its own memory. So it never scans itself
//! ([`ScanError::OwnProcess`]), and a scan of *physical* memory (`/proc/kcore`, the image of a
//! virtual machine) belongs on another machine than the one whose memory is read, or in the host
//! of that virtual machine.
//!
//! # Invariant
//!
//! A canary signs nothing that anybody trusts. Its bytes are therefore no secret, and this crate,
//! on the control side, may hold them.

#![forbid(unsafe_code)]

mod canary;
mod canary_file;
mod forms;
mod index;
mod pass;
mod place;
mod recode;
mod report;
mod scanner;

pub use canary::Canary;
pub use canary_file::CanaryFileError;
pub use forms::{Form, Forms, Fragment, Signed};
pub use report::{Hit, Progress, ScanReport, Source, Unreadable, unwatched};
pub use scanner::{ScanError, Scanner};
