//! A receipt as the paper that auditors know: a certificate of sanitization with the fields of NIST
//! SP 800-88 Rev. 2, one printed page, as a page that stands alone.
//!
//! What software cannot know (who stood by, the machine's serial number, how confidential the key
//! was) is left open, to be filled in by hand.

use evanesce_ledger::receipt::{
    HostFacts, KeyFate, Known, Observer, Receipt, ScrubMethod, ScrubStatement, Swap,
};
use evanesce_ledger::{Envelope, Timestamp};
use evanesce_protocol::{Digest, KeyOrigin, KeyUse};

use crate::html::Html;
use crate::receipt_text::{self, apart, cause, counted, is_of_scrub, name_of, origin};

/// A receipt, where it was found, and whether it holds.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// What it says.
    pub receipt: &'a Receipt,
    /// As the notary signed it.
    pub envelope: &'a Envelope,
    /// Its row in the ledger.
    pub row: u64,
    /// When it was appended.
    pub recorded_at: Timestamp,
    /// Whether a notary of this installation signed it; else nobody checked the signature.
    pub signed: bool,
}

impl Certificate<'_> {
    /// The page.
    pub fn to_html(self) -> String {
        let workload = &self.receipt.workload;
        Html::page(&format!("Certificate of sanitization: {workload}"), STYLE, |page| {
            self.heading(page);
            page.raw("<main>\n");
            self.target(page);
            self.sanitization(page);
            self.verification(page);
            self.word(page);
            people(page);
            self.checks(page);
            page.raw("</main>\n");
        })
    }

    fn heading(self, page: &mut Html) {
        let fate = self.receipt.key.fate;
        page.raw("<header>\n<h1>Certificate of sanitization</h1>\n<p>Of a signing key, with the fields of ")
            .raw("the certificate in NIST SP 800-88 Rev. 2. A statement of the tool and its notary; ")
            .raw("nobody else certified anything.</p>\n")
            .raw(match (fate, self.signed) {
                (KeyFate::Unproven, _) => "<p class=\"fate bad\">",
                (_, false) | (KeyFate::ThisCopyDestroyed, _) => "<p class=\"fate unsure\">",
                (KeyFate::Destroyed, true) => "<p class=\"fate good\">",
            })
            .text("Result: ")
            .raw("<strong>")
            .text(receipt_text::fate(fate))
            .raw("</strong>. ")
            .text(fate_sentence(self.receipt.key.origin, fate));
        if !self.signed {
            page.raw(
                " <strong>Its signature was not checked: the notary is not known here.</strong>",
            );
        }
        page.raw("</p>\n</header>\n");
    }

    fn target(self, page: &mut Html) {
        let Receipt { workload, key, times, .. } = self.receipt;
        page.raw("<section>\n<h2>What was sanitized</h2>\n<table>\n");
        page.row("Target data", |cell| {
            cell.text("Ed25519 private key whose public key is ").raw("<code>");
            cell.text(key.public_key).raw("</code>, for ");
            cell.text(match key.key_use {
                KeyUse::Message => "messages",
                KeyUse::Digest => "SHA-512 digests",
            });
            cell.text(format_args!("; {}", origin(key.origin)));
        });
        page.row("Source", |cell| {
            cell.text(format_args!(
                "workload {workload}, started {}, key loaded {}",
                times.started, times.loaded
            ));
        });
        page.row("Media type", |cell| {
            cell.text("memory of one process: ");
            cell.text(match self.receipt.degraded.iter().any(|name| name == "secret-pages") {
                false => "secret pages (memfd_secret(2)), ordinary pages, processor registers",
                true => {
                    "locked pages (secret pages were given up), ordinary pages, processor registers"
                }
            });
        });
        open(page, "Manufacturer, model, serial number", "of the machine");
        open(page, "Property number", "of the organization");
        open(page, "Confidentiality before / after", "");
        page.raw("</table>\n</section>\n");
    }

    fn sanitization(self, page: &mut Html) {
        let Receipt { software, times, signatures, .. } = self.receipt;
        page.raw("<section>\n<h2>How</h2>\n<table>\n");
        page.row("Method", |cell| {
            cell.text("Clear: logical techniques on the memory that held the key");
        });
        page.row("Technique", |cell| {
            cell.text(technique(self.receipt));
        });
        page.row("Tool and version", |cell| {
            cell.text(format_args!("evanesce {}; worker ", software.version));
            cell.raw("<code>").text(software.worker).raw("</code>; signer <code>");
            cell.text(software.signer).raw("</code>");
        });
        page.row("When", |cell| {
            cell.text(format_args!(
                "worker seen to be gone {}, because {}",
                times.ended,
                cause(self.receipt.cause)
            ));
        });
        page.row("Used until then", |cell| {
            cell.text(counted(signatures.count, "signature"));
            if !signatures.complete {
                cell.text("; there may have been more");
            }
        });
        page.raw("</table>\n</section>\n");
    }

    fn verification(self, page: &mut Html) {
        let Receipt { scrub, degraded, host, separation, key, .. } = self.receipt;
        page.raw("<section>\n<h2>Verification, and by whose word it holds</h2>\n<table>\n");
        for observer in OBSERVERS {
            let of_observer: Vec<_> =
                scrub.statements.iter().filter(|said| said.observer == observer).collect();
            if !of_observer.is_empty() {
                page.row(capitalised(observer), |cell| statements(cell, &of_observer));
            }
        }
        for unproven in &scrub.unproven {
            page.row("Not shown", |cell| {
                cell.raw("<strong class=\"bad\">").text(name_of(unproven.claim)).raw("</strong>: ");
                cell.text(&unproven.reason);
            });
        }
        if !degraded.is_empty() {
            page.row("Given up by the operator", |cell| {
                cell.text(degraded.join(", "));
            });
        }
        page.row("Result", |cell| {
            cell.text(receipt_text::fate(key.fate));
        });
        page.row("Outside of this certificate", |cell| {
            cell.text(other_copies(key.origin)).text(
                " Copies that somebody made of the whole machine while the key lived: snapshots, \
                 kernel crash dumps, hibernation images.",
            );
        });
        page.row("Host", |cell| {
            cell.text(host_line(host));
        });
        page.row("Separation", |cell| {
            cell.text(format_args!(
                "notary: {}; workload: {}",
                apart(separation.notary),
                apart(separation.workload)
            ));
        });
        page.raw("</table>\n</section>\n");
    }

    fn word(self, page: &mut Html) {
        let ledger = &self.receipt.ledger;
        page.raw("<section>\n<h2>On whose word</h2>\n<table>\n");
        page.row("Notary", |cell| {
            cell.raw("<code>").text(self.envelope.key_id()).raw("</code>: ").text(
                match self.signed {
                    true => "its signature holds, and it is a notary of this installation",
                    false => "not known here, its signature was not checked",
                },
            );
        });
        page.row("Ledger", |cell| {
            cell.raw("<code>").text(ledger.id).raw("</code>, ");
            cell.text(format_args!(
                "row {}, recorded {}; the signature covers all rows up to {}",
                self.row, self.recorded_at, ledger.last
            ));
        });
        page.row("Digest of the receipt", |cell| {
            cell.text("SHA-256 of its envelope, one line: ")
                .raw("<code>")
                .text(receipt_digest(self.envelope))
                .raw("</code>");
        });
        page.raw("</table>\n</section>\n");
    }

    fn checks(self, page: &mut Html) {
        let workload = &self.receipt.workload;
        page.raw("<section>\n<h2>How to check this page</h2>\n<ol>\n<li><code>")
            .text(format_args!("evanesce audit receipt {workload} --format json | sha256sum"))
            .raw("</code> prints the digest above: this page is of that receipt.</li>\n<li><code>")
            .text("evanesce audit verify --checkpoint kept-elsewhere.json --notary notary.pem")
            .raw("</code> exits 0: the signature holds, by the notary whose public key you have from ")
            .raw("elsewhere; the chain is whole and no newest row is missing.</li>\n<li>Without ")
            .raw("evanesce: <code>docs/formats/receipt.md</code> and <code>ledger.md</code> describe ")
            .raw("the bytes.</li>\n</ol>\n<p>This page is not signed: it says what the receipt says.")
            .raw("</p>\n</section>\n");
    }
}

/// SHA-256 of what `audit receipt --format json` prints: the envelope in one line, and a newline.
pub fn receipt_digest(envelope: &Envelope) -> Digest {
    let mut line = serde_json::to_vec(envelope).expect("an envelope is plain data");
    line.push(b'\n');
    Digest::of(&line)
}

fn fate_sentence(origin: KeyOrigin, fate: KeyFate) -> &'static str {
    match (fate, origin) {
        (KeyFate::Destroyed, _) => "The key was born inside the signer, and its only copy is gone.",
        (KeyFate::ThisCopyDestroyed, KeyOrigin::SealedFile) => {
            "This copy of the key is gone; the sealed file that it came from still exists."
        }
        (KeyFate::ThisCopyDestroyed, KeyOrigin::Released) => {
            "This copy of the key is gone; whoever released it to this machine still has it."
        }
        (KeyFate::ThisCopyDestroyed, _) => {
            "This copy of the key is gone; the file that it came from still exists."
        }
        (KeyFate::Unproven, _) => "A step could not be shown: treat the key as exposed.",
    }
}

fn technique(receipt: &Receipt) -> String {
    let scrub = &receipt.scrub;
    match scrub.method {
        ScrubMethod::WorkerWipedThenOverwritten => format!(
            "overwritten with zeros and read back inside ({}, {} bytes); then, from outside, \
             {} bytes of other private memory overwritten and read back ({} were not resident); \
             process killed and seen to be gone",
            counted(scrub.regions, "region"),
            scrub.bytes_wiped,
            scrub.bytes_overwritten,
            counted(scrub.pages_absent, "page"),
        ),
        ScrubMethod::MachineOverwritten => format!(
            "the machine that the worker had for itself was ended and seen to be gone; then all of \
             its memory, {} bytes, was overwritten with zeros and read back from outside",
            scrub.bytes_overwritten,
        ),
        ScrubMethod::Kernel => "the process was dead before it could be asked to overwrite: the \
                                kernel cleared its pages as it freed them"
            .to_owned(),
    }
}

/// Statements on the scrub with what was seen, those on the cage by name.
fn statements(cell: &mut Html, statements: &[&ScrubStatement]) {
    let (scrub, cage): (Vec<&ScrubStatement>, Vec<&ScrubStatement>) =
        statements.iter().copied().partition(|statement| is_of_scrub(statement.claim));
    for (index, statement) in scrub.iter().enumerate() {
        let before = if index == 0 { "" } else { "; " };
        cell.text(before).raw("<b>").text(name_of(statement.claim)).raw("</b>");
        cell.text(format_args!(" ({})", statement.detail));
    }
    if !cage.is_empty() {
        let names: Vec<_> = cage.iter().map(|statement| name_of(statement.claim)).collect();
        let before = if scrub.is_empty() { "" } else { ". " };
        cell.text(before).text("While it lived: ").text(names.join(", "));
    }
}

const fn other_copies(origin: KeyOrigin) -> &'static str {
    match origin {
        KeyOrigin::BornInside => "The key was never written anywhere by the tool.",
        KeyOrigin::Released => "The holder's file of the key, and every copy of that file.",
        _ => "The file that the key came from, and every copy of that file.",
    }
}

fn host_line(host: &HostFacts) -> String {
    let swap = match host.swap {
        Swap::None => "none",
        Swap::Encrypted => "encrypted",
        Swap::Plain => "not known to be encrypted",
        Swap::Unknown => "unknown",
    };
    format!(
        "Linux {}; pages cleared on free: {}; swap: {swap}; crash kernel: {}; hibernation: {}; core \
         pattern: {}",
        host.kernel,
        known(host.init_on_free),
        known(host.kdump),
        known(host.hibernation),
        host.core_pattern.as_deref().unwrap_or("unknown"),
    )
}

const fn known(known: Known) -> &'static str {
    match known {
        Known::Yes => "yes",
        Known::No => "no",
        Known::Unknown => "unknown",
    }
}

const fn capitalised(observer: Observer) -> &'static str {
    match observer {
        Observer::ObservedOutside => "Observed from outside",
        Observer::SelfReported => "By the worker's own word",
        Observer::RestsOnKernel => "Rests on the kernel",
        Observer::RestsOnPlatform => "Rests on the platform",
    }
}

/// A field for a pen.
fn open(page: &mut Html, name: &'static str, hint: &'static str) {
    page.row(name, |cell| {
        cell.raw("<span class=\"open\"></span> ").text(hint);
    });
}

fn people(page: &mut Html) {
    page.raw("<section>\n<h2>People</h2>\n<table class=\"people\">\n<tr><td></td>")
        .raw("<th scope=\"col\">Name, title, organization</th><th scope=\"col\">Location, contact</th>")
        .raw("<th scope=\"col\">Date, signature</th></tr>\n");
    for role in ["Sanitized by", "Verified by", "Validated by"] {
        page.raw("<tr><th scope=\"row\">")
            .text(role)
            .raw("</th><td></td><td></td><td></td></tr>\n");
    }
    page.raw("</table>\n</section>\n");
}

const OBSERVERS: [Observer; 4] = [
    Observer::ObservedOutside,
    Observer::SelfReported,
    Observer::RestsOnKernel,
    Observer::RestsOnPlatform,
];

const STYLE: &str = "\
@page { size: A4; margin: 11mm 13mm }
body { font: 8.6pt/1.28 sans-serif; max-width: 184mm; margin: 1em auto; color: #111 }
h1 { font-size: 15pt; margin: 0 }
h2 { font-size: 9.6pt; margin: .7em 0 .15em }
p, ol { margin: .25em 0 }
table { border-collapse: collapse; width: 100% }
th, td { border: .4pt solid #999; padding: .14em .4em; text-align: left; vertical-align: top }
table:not(.people) th { width: 34mm; font-weight: normal; color: #333; background: #f4f4f4 }
.people td { height: 2.1em }
code { font-size: 7.4pt; overflow-wrap: anywhere }
.fate { font-size: 11pt; border: 1.2pt solid; padding: .3em .6em }
.good { color: #14532d }
.unsure { color: #713f12 }
.bad { color: #7f1d1d }
.open { display: inline-block; width: 60% }
@media print { body { margin: 0; font-size: 7.8pt; line-height: 1.22 } code { font-size: 6.9pt } }
";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn receipt(fate: &str, origin: &str) -> serde_json::Value {
        let digest = format!("sha256:{}", "5a".repeat(32));
        let time = "2026-11-22T02:10:00.123Z";
        json!({
            "workload": "release-1",
            "key": {
                "public_key": format!("ed25519:{}", "d7".repeat(32)), "use": "message",
                "origin": origin, "fate": fate,
            },
            "times": {"started": time, "loaded": time, "ended": time, "made": time},
            "software": {"version": "0.1.0", "worker": digest, "signer": digest},
            "cause": "command-ended",
            "scrub": {
                "method": "worker-wiped-then-overwritten",
                "statements": [
                    {"claim": "core-limit-zero", "observer": "observed-outside", "detail": "0 0"},
                    {"claim": "process-gone", "observer": "observed-outside", "detail": "its pidfd"},
                    {"claim": "regions-wiped-and-read-back", "observer": "self-reported",
                     "detail": "3 regions"},
                ],
                "regions": 3, "bytes_wiped": 200_704, "bytes_overwritten": 131_072,
                "pages_absent": 1,
            },
            "signatures": {"count": 1000, "commitment": digest, "complete": true},
            "ledger": {"id": "ab".repeat(32), "first": 2, "last": 9, "head": digest},
            "degraded": [],
            "separation": {"notary": "same-uid", "workload": "same-uid"},
            "host": {"kernel": "6.12.0", "init_on_free": "yes", "swap": "none",
                     "core_pattern": "|/bin/false", "kdump": "no", "hibernation": "no"},
        })
    }

    fn page_of(receipt: serde_json::Value, signed: bool) -> String {
        let receipt: Receipt = serde_json::from_value(receipt).unwrap();
        let envelope: Envelope = serde_json::from_value(json!({
            "payload": "e30=",
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{
                "keyid": format!("sha256:{}", "11".repeat(32)),
                // The numbers 1 and 1: it is not looked at.
                "sig": "MAYCAQECAQE=",
            }],
        }))
        .unwrap();
        let recorded_at = receipt.times.made;
        Certificate { receipt: &receipt, envelope: &envelope, row: 10, recorded_at, signed }
            .to_html()
    }

    #[test]
    fn the_page_has_the_fields_that_an_auditor_looks_for() {
        let page = page_of(receipt("destroyed", "born-inside"), true);

        for field in [
            "Target data",
            "Source",
            "Media type",
            "Manufacturer, model, serial number",
            "Property number",
            "Confidentiality before / after",
            "Method",
            "Technique",
            "Tool and version",
            "When",
            "Result",
            "Notary",
            "Digest of the receipt",
            "Sanitized by",
            "Verified by",
            "Validated by",
        ] {
            assert!(page.contains(&format!("<th scope=\"row\">{field}</th>")), "{field}: {page}");
        }
        assert!(page.contains("3 regions, 200704 bytes"), "{page}");
        assert!(page.contains("class=\"fate good\""), "{page}");
    }

    /// What a reader sees first must not be better than what was shown.
    #[test]
    fn the_result_is_green_only_where_the_key_is_destroyed_and_a_known_notary_says_so() {
        let class = |fate, origin, signed| {
            let page = page_of(receipt(fate, origin), signed);
            page.split("class=\"fate ").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };

        assert_eq!(class("destroyed", "born-inside", true), "good");
        assert_eq!(class("destroyed", "born-inside", false), "unsure");
        assert_eq!(class("this-copy-destroyed", "plaintext-file", true), "unsure");
        assert_eq!(class("unproven", "born-inside", true), "bad");
        assert_eq!(class("unproven", "born-inside", false), "bad");
    }

    #[test]
    fn what_was_not_shown_and_what_was_given_up_is_on_the_page() {
        let mut unproven = receipt("unproven", "plaintext-file");
        unproven["scrub"]["unproven"] =
            json!([{"claim": "pages-cleared-on-free", "reason": "init_on_free is off"}]);
        unproven["degraded"] = json!(["secret-pages"]);
        unproven["signatures"]["complete"] = json!(false);
        let page = page_of(unproven, false);

        assert!(page.contains("</strong>: init_on_free is off"), "{page}");
        assert!(page.contains("<td>secret-pages</td>"), "{page}");
        assert!(page.contains("locked pages (secret pages were given up)"), "{page}");
        assert!(page.contains("there may have been more"), "{page}");
        assert!(page.contains("was not checked"), "{page}");
    }

    #[test]
    fn texts_of_a_receipt_are_never_markup() {
        let mut hostile = receipt("unproven", "born-inside");
        let markup = "</td><script>alert('1')</script>";
        hostile["host"]["core_pattern"] = json!(markup);
        hostile["host"]["kernel"] = json!(markup);
        hostile["degraded"] = json!([markup]);
        hostile["software"]["version"] = json!(markup);
        hostile["scrub"]["statements"][1]["detail"] = json!(markup);
        hostile["scrub"]["unproven"] = json!([{"claim": "process-gone", "reason": markup}]);
        let page = page_of(hostile, true);

        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 6, "{page}");
    }
}
