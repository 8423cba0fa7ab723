//! A bar for what takes longer than a second.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use evanesce_residue::Progress;

use crate::ui::{Format, Ui};

/// Shows on a terminal how far a search has come; says nothing anywhere else.
#[derive(Debug)]
pub struct ProgressBar {
    ui: Ui,
    what: String,
    started: Instant,
    drawn: Option<Instant>,
    is_shown: bool,
}

impl ProgressBar {
    /// A bar for the search of `what`, which shows after a second.
    pub fn new(ui: Ui, what: impl Into<String>) -> Self {
        let is_shown = ui.format() == Format::Text && io::stderr().is_terminal();
        Self { ui, what: what.into(), started: Instant::now(), drawn: None, is_shown }
    }

    /// Draws the bar, if it is time.
    pub fn show(&mut self, progress: Progress) {
        let since = self.drawn.unwrap_or(self.started).elapsed();
        let pause = if self.drawn.is_some() { REDRAW_AFTER } else { SHOW_AFTER };
        if self.is_shown && since >= pause {
            self.ui.redraw(&line(&self.what, progress, self.started.elapsed()));
            self.drawn = Some(Instant::now());
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            self.ui.redraw("");
        }
    }
}

/// `[######----------]  38%  1.4 GiB, 1.1 GiB/s  /dev/sda`
fn line(what: &str, progress: Progress, elapsed: Duration) -> String {
    let Progress { bytes_done, bytes_total } = progress;
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let speed = bytes_done.saturating_mul(1000) / millis;
    let amount = format!("{}, {}/s  {what}", bytes(bytes_done), bytes(speed));
    match bytes_total.filter(|total| *total > 0) {
        None => amount,
        Some(total) => {
            let percent = bytes_done.min(total).saturating_mul(100) / total;
            let filled = usize::try_from(percent * BAR_CHARACTERS / 100).unwrap_or_default();
            let width = usize::try_from(BAR_CHARACTERS).unwrap_or_default();
            format!("[{:-<width$}] {percent:>3}%  {amount}", "#".repeat(filled))
        }
    }
}

/// A number of bytes as people read it: `1.4 GiB`.
pub fn bytes(count: u64) -> String {
    let mut unit = 0;
    let mut tenths = count.saturating_mul(10);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match unit {
        0 => format!("{count} bytes"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];

const BAR_CHARACTERS: u64 = 24;

const SHOW_AFTER: Duration = Duration::from_secs(1);

const REDRAW_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_bytes_is_read_at_a_glance() {
        let shown = [0, 1023, 1024, 1536, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(shown[..5], ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
        assert!(shown[5].ends_with(" TiB"), "{}", shown[5]);
    }

    #[test]
    fn a_line_has_a_bar_only_where_the_end_is_known() {
        let at = |bytes_done, bytes_total| {
            line("x", Progress { bytes_done, bytes_total }, Duration::from_secs(2))
        };

        assert_eq!(at(2048, Some(4096)), "[############------------]  50%  2.0 KiB, 1.0 KiB/s  x");
        assert_eq!(at(2048, None), "2.0 KiB, 1.0 KiB/s  x");
        assert!(at(9, Some(3)).starts_with("[########################] 100%"));
    }
}
