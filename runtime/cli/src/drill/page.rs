//! A drill's report as a page that stands alone, with a timeline.

use evanesce_residue::ScanReport;

use crate::drill::report::{DrillReport, Stage, StageOutcome, Verdict, searched};
use crate::html::Html;

impl DrillReport {
    /// The page.
    pub fn to_html(&self) -> String {
        Html::page(
            &format!("Drill on {}: {}", self.host.name, self.verdict.words()),
            STYLE,
            |page| {
                page.raw("<header>\n<h1>Drill: what is left of a key on this host</h1>\n");
                page.raw(match self.verdict {
                    Verdict::Holds => "<p class=\"verdict holds\">",
                    Verdict::DoesNotHold => "<p class=\"verdict does-not-hold\">",
                    Verdict::Incomplete => "<p class=\"verdict not-looked-at\">",
                });
                page.text("The promise ").raw("<strong>").text(self.verdict.words());
                page.raw("</strong></p>\n</header>\n<main>\n");
                self.facts(page);
                self.timeline(page);
                self.not_looked_at(page);
                page.raw("<section>\n<h2>Stages</h2>\n");
                for stage in &self.stages {
                    detail(stage, page);
                }
                page.raw("</section>\n</main>\n");
            },
        )
    }

    fn facts(&self, page: &mut Html) {
        let Self { host, canary, version, began, ended, .. } = self;
        page.raw("<section>\n<table>\n");
        page.row("Host", |cell| {
            cell.text(format_args!("{}, Linux {}, as user {}", host.name, host.kernel, host.uid));
        });
        page.row("When", |cell| {
            cell.text(format_args!("{began} to {ended}"));
        });
        page.row("Tool", |cell| {
            cell.text(format_args!("evanesce {version}"));
        });
        page.row("Searched for", |cell| {
            cell.raw("<code>").text(&canary.public_key).raw("</code>, a key made for it: ");
            cell.text(format_args!(
                "{} forms of it and of {} signatures, every piece of eight bytes that can be told \
                 from chance ({}), sixteen where eight hold too little of the key",
                canary.forms, canary.signatures, canary.fragments
            ));
        });
        page.raw("</table>\n</section>\n");
    }

    fn timeline(&self, page: &mut Html) {
        let whole_ms = self.ended.unix_ms().saturating_sub(self.began.unix_ms()).max(1);
        page.raw(
            "<section>\n<h2>Timeline</h2>\n<table class=\"timeline\">\n<tr><th scope=\"col\">",
        )
        .raw("Stage</th><th scope=\"col\">Outcome</th><th scope=\"col\">")
        .text(format_args!("0 to {whole_ms} ms"))
        .raw("</th></tr>\n");
        for stage in &self.stages {
            let from_ms = stage.began.unix_ms().saturating_sub(self.began.unix_ms());
            // In thousandths, and never so thin that nobody sees it.
            let left = (from_ms.saturating_mul(1000) / whole_ms).min(990);
            let width = (stage.took_ms.saturating_mul(1000) / whole_ms).clamp(6, 1000 - left);
            page.raw("<tr><th scope=\"row\">").text(stage.name).raw("</th><td>");
            outcome(stage.outcome, page);
            page.raw("</td><td><div class=\"track\"><div class=\"")
                .raw(class(stage.outcome))
                .raw("\" style=\"margin-left:")
                .text(format_args!(
                    "{}.{}%;width:{}.{}%",
                    left / 10,
                    left % 10,
                    width / 10,
                    width % 10
                ))
                .raw("\"></div></div></td></tr>\n");
        }
        page.raw("</table>\n</section>\n");
    }

    fn not_looked_at(&self, page: &mut Html) {
        if self.not_looked_at.is_empty() {
            return;
        }
        page.raw("<section>\n<h2>Not looked at</h2>\n<ul>\n");
        for sentence in &self.not_looked_at {
            page.raw("<li>").text(sentence).raw("</li>\n");
        }
        page.raw("</ul>\n</section>\n");
    }
}

fn detail(stage: &Stage, page: &mut Html) {
    page.raw("<article>\n<h3>").text(stage.name).raw(" ");
    outcome(stage.outcome, page);
    page.raw("</h3>\n<p>").text(stage.what).raw("</p>\n");
    if !stage.seen.is_empty() {
        page.raw("<ul>\n");
        for sentence in &stage.seen {
            page.raw("<li>").text(sentence).raw("</li>\n");
        }
        page.raw("</ul>\n");
    }
    if let Some(search) = &stage.search {
        sources(search, page);
    }
    page.raw("</article>\n");
}

fn sources(search: &ScanReport, page: &mut Html) {
    page.raw("<p>").text(searched(search)).raw("</p>\n");
    if search.hits.is_empty() {
        return;
    }
    page.raw("<table>\n<tr><th scope=\"col\">Form</th><th scope=\"col\">Bytes</th>")
        .raw("<th scope=\"col\">Place</th><th scope=\"col\">At</th></tr>\n");
    for hit in search.hits.iter().take(HITS_SHOWN_MAX) {
        page.raw("<tr><td>").text(&hit.form).raw("</td><td>").text(hit.bytes).raw("</td><td>");
        page.text(&hit.place).raw("</td><td>").text(format_args!("{:#x}", hit.offset));
        page.raw("</td></tr>\n");
    }
    page.raw("</table>\n");
    let listed = u64::try_from(search.hits.len().min(HITS_SHOWN_MAX)).unwrap_or(u64::MAX);
    if search.hits_total > listed {
        page.raw("<p>and ").text(search.hits_total - listed).raw(" more</p>\n");
    }
}

fn outcome(outcome: StageOutcome, page: &mut Html) {
    page.raw("<span class=\"").raw(class(outcome)).raw("\">").text(outcome.words()).raw("</span>");
}

const fn class(outcome: StageOutcome) -> &'static str {
    match outcome {
        StageOutcome::Holds => "holds",
        StageOutcome::DoesNotHold => "does-not-hold",
        StageOutcome::NotLookedAt => "not-looked-at",
    }
}

/// Hits that the page lists; JSON has more.
const HITS_SHOWN_MAX: usize = 40;

const STYLE: &str = "\
body { font: 10pt/1.4 sans-serif; max-width: 60em; margin: 1.5em auto; padding: 0 1em; color: #111 }
h1 { font-size: 17pt }
h2 { font-size: 12pt; margin-bottom: .3em }
h3 { font-size: 10.5pt; margin-bottom: .1em }
p, ul { margin: .3em 0 }
table { border-collapse: collapse; width: 100% }
th, td { border: .5pt solid #bbb; padding: .2em .5em; text-align: left; vertical-align: top; font-weight: normal }
code { font-size: 9pt; overflow-wrap: anywhere }
.verdict { border: 1.5pt solid; padding: .4em .8em; font-size: 13pt }
.holds { color: #14532d }
.does-not-hold { color: #991b1b }
.not-looked-at { color: #854d0e }
.timeline td:last-child { width: 55% }
.track { background: #eee; height: .9em }
.track div { background: currentColor; height: 100% }
@media print { article { break-inside: avoid } }
";

#[cfg(test)]
mod tests {
    use evanesce_residue::Hit;

    use super::*;
    use crate::drill::report::tests::{report, stage};

    #[test]
    fn the_page_has_verdict_timeline_and_what_was_not_looked_at() {
        let page = report(&[StageOutcome::Holds, StageOutcome::NotLookedAt]).to_html();

        assert!(page.contains("class=\"verdict not-looked-at\""), "{page}");
        assert!(page.contains("margin-left:0.0%;width:25.0%"), "{page}");
        assert!(page.contains("<li>swap &lt;there is none&gt;</li>"), "{page}");
        assert!(page.contains("<li>1 &lt; 2</li>"), "{page}");
    }

    #[test]
    fn the_place_of_a_hit_is_text() {
        let hit = Hit {
            form: "seed".into(),
            form_offset: 0,
            bytes: 8,
            fragments: 1,
            source: "x".into(),
            place: "/tmp/<b>".into(),
            offset: 255,
        };
        let mut drill = report(&[]);
        let search = ScanReport { hits: vec![hit], hits_total: 7, ..ScanReport::default() };
        drill.stages = vec![Stage { search: Some(search), ..stage(StageOutcome::DoesNotHold) }];
        let page = drill.to_html();

        assert!(page.contains("<td>/tmp/&lt;b&gt;</td><td>0xff</td>"), "{page}");
        assert!(page.contains("and 6 more"), "{page}");
    }

    /// A clock that was set back must not make a page that no browser draws.
    #[test]
    fn a_stage_outside_of_the_time_is_drawn_inside() {
        let mut drill = report(&[StageOutcome::Holds]);
        drill.ended = drill.began;
        drill.stages[0].took_ms = u64::MAX;
        let page = drill.to_html();

        assert!(page.contains("margin-left:0.0%;width:100.0%"), "{page}");
    }
}
